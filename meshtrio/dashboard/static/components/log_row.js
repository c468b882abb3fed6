// A line of the log, which opens into its fields and its traceback.
import { dateTime, plural, time } from '../format.js';
import { html, memo, useState } from '../lib.js';
import { fieldsOf } from '../model/log_rows.js';
import { toneOfLevel } from '../model/states.js';
import { href } from '../router.js';
import { Marked } from './marked.js';
import { Text, plain } from './text.js';

const MAX_SHOWN = 2000; // Characters of a line that is not opened.
const INLINE_FIELDS = 6;

// Plain text has no level of its own, so that INFO says nothing.
const toneOfRow = ({ level, traceback, structured }) => (
  traceback && !structured ? 'bad' : structured || level !== 'INFO' ? toneOfLevel(level) : 'off'
);

/** `version` is the row's, so that it is rendered again when lines are folded into it. */
export const LogRow = memo(({ row, words }) => {
  const [open, setOpen] = useState(false);
  const fields = fieldsOf(row);
  const source = `${row.plugin}/${row.instance}`;
  const tone = toneOfRow(row);
  const shown = row.text.length > MAX_SHOWN ? `${row.text.slice(0, MAX_SHOWN)}…` : row.text;
  return html`
    <li class=${`log-row tone-${tone}${open ? ' open' : ''}`} data-row>
      <button type="button" class="row-toggle" tabindex="-1" aria-expanded=${open} aria-label=${plain(`Details of ${time(row.time)} ${source}`)}
        onClick=${() => setOpen(!open)}>${open ? '▾' : '▸'}</button>
      <time title=${dateTime(row.time, 3)}>${time(row.time, 3)}</time>
      <span class="log-level">${row.structured || row.level !== 'INFO' ? row.level : ''}</span>
      <span class="log-source"><${Text} value=${source} /></span>
      <div class="log-text">
        <span class="log-message"><${Marked} value=${shown} words=${words} /></span>
        ${!open && fields.slice(0, INLINE_FIELDS).map(([name, value]) => html`
          <span class="log-field" key=${name}>${'  '}<${Text} value=${name} />=<${Marked} value=${value.slice(0, 200)} words=${words} /></span>`)}
        ${!open && row.folded.length > 0 && html`
          <span class="log-fold">${'  '}${row.summary && html`<span class="log-summary"><${Marked} value=${row.summary} words=${words} />${'  '}</span>`}
            <span class="log-more">${plural(row.folded.length, 'more line')}</span></span>`}
        ${open && html`<${Details} row=${row} fields=${fields} words=${words} />`}
      </div>
    </li>`;
});

function Details({ row, fields, words }) {
  const facts = [
    ['Time', dateTime(row.time, 3)], ['Process', row.pid], ['Stream', row.stream], ['Level', row.level], ['Logger', row.logger], ['Trace', row.traceId],
    ['Span', row.spanId],
  ].filter(([, value]) => value);
  const name = `${row.plugin}/${row.instance}`;
  return html`
    <div class="row-details">
      ${row.text.length > MAX_SHOWN && html`<pre class="lines"><${Marked} value=${row.text} words=${words} /></pre>`}
      ${row.folded.length > 0 && html`<pre class="lines"><${Marked} value=${row.folded.join('\n')} words=${words} /></pre>`}
      ${fields.length > 0 && html`
        <dl class="pairs" aria-label="Fields">${fields.map(([key, value]) => html`
          <div key=${key}><dt><${Text} value=${key} /></dt><dd><${Marked} value=${value} words=${words} /></dd></div>`)}</dl>`}
      <dl class="pairs small">${facts.map(([key, value]) => html`<div key=${key}><dt>${key}</dt><dd><${Text} value=${value} /></dd></div>`)}</dl>
      <p class="details-links">
        <a href=${href('tree', { select: name })}>Instance</a>
        <a href=${href('timeline', { names: row.plugin })}>Timeline</a>
        <a href=${href('events', { names: row.plugin })}>Events</a>
      </p>
    </div>`;
}
