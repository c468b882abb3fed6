// Whether what is shown is live, and what has become of the mesh.
import { useNow } from '../data.js';
import { html } from '../lib.js';
import { mesh, notice } from '../session.js';
import { useStore } from '../store.js';
import { stream } from '../stream.js';
import { Text, ToneMark } from './text.js';

const PHASES = {
  connecting: ['busy', 'Connecting'],
  live: ['good', 'Live'],
  hidden: ['off', 'Paused'],
  away: ['bad', 'Mesh away'],
  expired: ['bad', 'Signed out'],
};

/** The connection's state, and whether the viewer can act. */
export function ConnectionMark() {
  const phase = useStore(stream.status, (status) => status.phase);
  const control = useStore(mesh, (now) => now?.control);
  const [tone, label] = PHASES[phase];
  return html`
    <div class="connection">
      ${control === false && html`<span class="read-only" title="The config does not have control = true">Read-only</span>`}
      <span class=${`badge tone-${tone}`} role="status"><${ToneMark} tone=${tone} />${label}</span>
    </div>`;
}

/** What the user has to know about the connection, if anything. */
export function ConnectionBanner() {
  const status = useStore(stream.status);
  const news = useStore(notice);
  if (status.phase === 'expired') return html`<${Expired} />`;
  const away = status.phase === 'away' || (status.phase === 'connecting' && status.text !== undefined);
  return html`
    ${away && html`<${Away} status=${status} />`}
    ${news && !away && html`
      <div class="note tone-info banner" role="status">
        <p><strong>${news.text}</strong></p>
        ${news.reload && html`<button type="button" onClick=${() => location.reload()}>Reload the page</button>`}
        <button type="button" class="quiet" onClick=${() => notice.set(null)}>Dismiss</button>
      </div>`}`;
}

function Expired() {
  return html`
    <div class="note tone-bad banner" role="alert">
      <p><strong>This page's session is no longer valid.</strong> What is shown is old. Run
        ${' '}<code>meshtrio dashboard</code> on the mesh's machine, and open the address that it prints.</p>
    </div>`;
}

function Away({ status }) {
  return html`
    <div class="note tone-bad banner">
      <p><span role="alert"><strong>The mesh cannot be reached.</strong> What is shown is from before.</span>
        ${status.text && html` <${Text} value=${`${status.text}.`} />`} <${Countdown} status=${status} /></p>
      <button type="button" onClick=${() => stream.retryNow()}>Try now</button>
    </div>`;
}

function Countdown({ status }) {
  const now = useNow(1);
  const seconds = Math.ceil((status.retryAt ?? 0) / 1000 - now);
  return html`<span>${seconds > 0 ? `Next attempt in ${seconds} s.` : 'Connecting…'}</span>`;
}
