// One life in full.
import { dateTime, duration, NONE, time } from '../format.js';
import { html, useEffect, useRef } from '../lib.js';
import { followsText, readyAt, stateOf, toneOfLife } from '../model/lives.js';
import { href } from '../router.js';
import { Facts } from './layout.js';
import { StatusBadge, Text, ToneMark } from './text.js';

export function LifeDetails({ life, now, takeFocus, onClose }) {
  const panel = useRef(null);
  const state = stateOf(life, now);
  const ready = readyAt(life);
  useEffect(() => {
    // It stays in the chart, so that the arrow keys go on to the next process.
    if (!takeFocus) return undefined;
    const before = document.activeElement;
    panel.current.querySelector('h2').focus();
    return () => document.activeElement === document.body && before?.isConnected && before.focus();
  }, []);
  useEffect(() => {
    const close = (event) => event.key === 'Escape' && panel.current.contains(document.activeElement) && onClose();
    addEventListener('keydown', close);
    return () => removeEventListener('keydown', close);
  }, []);
  return html`
    <aside class="details" aria-labelledby="details-title" ref=${panel}>
      <div class="details-head">
        <h2 id="details-title" tabindex="-1"><${Text} value=${`${life.plugin}/${life.instance}`} />${life.pid == null ? '' : html` <span class="muted">pid ${life.pid}</span>`}</h2>
        <${StatusBadge} state=${state} tone=${toneOfLife(state)} />
        <button type="button" class="quiet close" aria-label="Close details" onClick=${onClose}>✕</button>
      </div>
      ${life.reason && html`<p class=${`reason tone-${toneOfLife(state)}`}><${ToneMark} tone=${toneOfLife(state)} /><${Text} value=${life.reason} /></p>`}
      ${life.last_lines?.length > 0 && html`
        <section class="details-part">
          <h3>Last lines of stderr</h3>
          <pre class="lines" tabindex="0" aria-label="Last lines of stderr"><${Text} value=${life.last_lines.join('\n')} /></pre>
        </section>`}
      <${Facts} facts=${[
        ['Started', dateTime(life.started, 3)],
        ['Because of', followsText(life)],
        ['Ready after', ready === null ? NONE : duration(ready - life.started)],
        ['Ended', life.ended == null ? null : dateTime(life.ended, 3)],
        [life.ended == null ? 'Running for' : 'Lasted', duration(Math.max(0, (life.ended ?? now) - life.started))],
        ['Started by', life.start],
        ['Exit status', life.exit_status],
        ['Signal', life.signal],
        ['Then', life.next_state],
      ]} />
      <section class="details-part">
        <h3>What happened</h3>
        ${life.moments_dropped > 0 && html`<p class="muted">${life.moments_dropped} in the middle are not kept.</p>`}
        <ol class="event-list">
          ${life.moments.map((moment, index) => html`
            <li key=${index}><time title=${dateTime(moment.time, 3)}>${time(moment.time, 1)}</time>
              <${ToneMark} tone=${toneOfLife(moment.kind)} /><span><${Text} value=${moment.text || moment.kind} /></span></li>`)}
        </ol>
      </section>
      <ul class="details-links" aria-label="Other views">
        <li><a href=${href('tree', { select: `${life.plugin}/${life.instance}` })}>Tree</a></li>
        <li><a href=${href('logs', { names: life.plugin })}>Logs</a></li>
        <li><a href=${href('events', { names: life.plugin })}>Events</a></li>
      </ul>
    </aside>`;
}
