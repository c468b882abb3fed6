// Confirmation of actions, and reports of what was done.
import {
  ACTIONS, addReport, describeReply, dismissReport, pendingAction, reports, requestAction, useControl,
} from '../actions.js';
import { act } from '../api.js';
import { html, useEffect, useId, useRef, useState } from '../lib.js';
import { useStore } from '../store.js';
import { Text, ToneMark, plain } from './text.js';

/** Buttons for actions on a target; nothing if the mesh does not let viewers act. */
export function ActionButtons({ actions, target }) {
  if (!useControl()) return null;
  return html`
    <div class="buttons" role="group" aria-label=${plain(`Actions on ${target.name}`)}>
      ${actions.map((action) => html`
        <button type="button" key=${action} class=${ACTIONS[action].danger ? 'danger' : ''}
          aria-haspopup="dialog" onClick=${() => requestAction(action, target)}>${ACTIONS[action].label}</button>`)}
    </div>`;
}

/** The dialog of the action that is to be confirmed. */
export function ActionDialog() {
  const pending = useStore(pendingAction);
  return pending && html`<${Confirmation} key=${`${pending.action} ${pending.target.name}`} ...${pending} />`;
}

function Confirmation({ action, target }) {
  const { label, done, text, danger, field, body } = ACTIONS[action];
  const dialog = useRef(null);
  const id = useId();
  const [value, setValue] = useState(field?.first(target) ?? '');
  const [running, setRunning] = useState(false);
  const [error, setError] = useState(null);
  useEffect(() => dialog.current.showModal(), []);

  const submit = async (event) => {
    event.preventDefault();
    setRunning(true);
    setError(null);
    try {
      const reply = await act(action, body(target, value));
      const more = describeReply(action, reply);
      const name = action === 'reload' ? '' : ` ${target.name}`;
      addReport('good', `${done}${name}${more && name ? `: ${more}` : ` ${more}`}`);
      dialog.current?.close();
    } catch (problem) {
      // The user may have closed the dialog while the mesh was at it.
      if (dialog.current) setError(problem);
      else addReport('bad', `${label} ${target.name}: ${problem.text ?? problem}`);
    }
    setRunning(false);
  };

  return html`
    <dialog ref=${dialog} class="dialog" aria-labelledby=${`${id}-title`} aria-describedby=${`${id}-text`}
      onClose=${() => pendingAction.set(null)}>
      <form onSubmit=${submit}>
        <h2 id=${`${id}-title`}>${label}${target.kind === 'mesh' ? '' : html` <${Text} value=${target.name} />`}</h2>
        <p id=${`${id}-text`}><${Text} value=${text(target)} /></p>
        ${field && html`<${ActionField} field=${field} value=${value} setValue=${setValue} disabled=${running} />`}
        ${error && html`<p class="note tone-bad pre-line" role="alert"><${Text} value=${error.text ?? String(error)} /></p>`}
        <div class="dialog-buttons">
          <button type="button" onClick=${() => dialog.current.close()}>${running ? 'Close' : 'Cancel'}</button>
          <button type="submit" class=${danger ? 'primary danger' : 'primary'} disabled=${running}>
            ${running ? 'Working…' : label}</button>
        </div>
        <p class="visually-hidden" role="status">${running ? 'The mesh is working on it.' : ''}</p>
      </form>
    </dialog>`;
}

function ActionField({ field, value, setValue, disabled }) {
  const change = (event) => setValue(event.target.value);
  return html`
    <label class="field"><span>${field.label}</span>
      ${field.type === 'select'
        ? html`<select value=${value} onChange=${change} disabled=${disabled}>
            ${field.options.map((option) => html`<option key=${option} value=${option}>${option}</option>`)}</select>`
        : html`<input type=${field.type} min=${field.min} required value=${value} onInput=${change} disabled=${disabled} />`}
    </label>`;
}

/** What was done, for a moment. */
export function Reports() {
  const shown = useStore(reports);
  return html`
    <div class="reports" role="status">
      ${shown.map(({ id, tone, text }) => html`
        <div key=${id} class=${`report tone-${tone}`}>
          <${ToneMark} tone=${tone} /><p><${Text} value=${text} /></p>
          <button type="button" class="quiet" aria-label="Dismiss" onClick=${() => dismissReport(id)}>✕</button>
        </div>`)}
    </div>`;
}
