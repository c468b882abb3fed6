// A call of the live tap, which opens into what is known of it.
import { bytes, count, dateTime, duration, time } from '../format.js';
import { Fragment, html, memo, useState } from '../lib.js';
import { shortMethod } from '../model/call_rows.js';
import { toneOfStatus } from '../model/status.js';
import { href } from '../router.js';
import { Marked } from './marked.js';
import { Text, ToneMark, plain } from './text.js';

export const CallRow = memo(({ row, words }) => {
  const [open, setOpen] = useState(false);
  const instance = `${row.plugin}/${row.instance}`;
  const tone = toneOfStatus(row.status);
  return html`
    <${Fragment}>
      <tr class=${`call-row tone-${tone}${row.failed ? ' failed' : ''}${open ? ' open' : ''}`} data-row>
        <td class="cell-time"><button type="button" class="row-toggle" tabindex="-1" aria-expanded=${open}
          aria-label=${plain(`Details of ${time(row.time)} ${row.method}`)} onClick=${() => setOpen(!open)}>${open ? '▾' : '▸'}</button>
          <time title=${dateTime(row.time, 3)}>${time(row.time, 3)}</time></td>
        <td class="cell-instance"><${Marked} value=${instance} words=${words} /></td>
        <td class="cell-method"><span title=${plain(row.method)}><${Marked} value=${shortMethod(row.method)} words=${words} /></span></td>
        <td class="cell-status"><span class="call-status"><${ToneMark} tone=${tone} />${row.status}</span></td>
        <td class="numeric">${duration(row.seconds)}</td>
        <td class="cell-caller">${row.forwarded && html`<span class="kind" title="Passed on by a gateway">via</span> `}<${Marked} value=${row.caller} words=${words} /></td>
        <td class="numeric cell-bytes">${bytes(row.received)} / ${bytes(row.sent)}</td>
      </tr>
      ${open && html`<tr class="details-row"><td colspan="7"><${Details} row=${row} instance=${instance} /></td></tr>`}
    <//>`;
});

function Details({ row, instance }) {
  const facts = [
    ['Method', row.method], ['Message', row.message], ['Ended', dateTime(row.time, 3)], ['Took', duration(row.seconds)], ['Instance', instance],
    ['Peer', row.peer], ['Forwarded for', row.forwarded ? row.caller : ''], ['Received', `${count(row.received)} B`], ['Sent', `${count(row.sent)} B`],
    ['Trace', row.traceId],
  ].filter(([, value]) => value);
  return html`
    <div class="row-details">
      <dl class="pairs">${facts.map(([name, value]) => html`<div key=${name}><dt>${name}</dt><dd><${Text} value=${value} /></dd></div>`)}</dl>
      <p class="details-links">
        <a href=${href('tree', { select: instance })}>Instance</a>
        <a href=${href('calls', { names: row.plugin, method: row.method })}>Calls of the method</a>
        <a href=${href('logs', { names: row.plugin, search: row.traceId })}>Logs${row.traceId ? ' of the trace' : ''}</a>
      </p>
    </div>`;
}
