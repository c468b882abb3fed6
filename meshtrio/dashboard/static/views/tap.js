// Calls as they end.
import { Check, NameFilter, SettledField } from '../components/filters.js';
import { FeedView, Marker } from '../components/feed_view.js';
import { Page, SearchField } from '../components/layout.js';
import { CallRow } from '../components/call_row.js';
import { useFeed } from '../feed_data.js';
import { plural } from '../format.js';
import { html, useMemo, useRef } from '../lib.js';
import { makeCallRow, parseSeconds } from '../model/call_rows.js';
import { isFound, parseQuery } from '../model/search.js';
import { Text } from '../components/text.js';
import { setParams } from '../router.js';

export default function Tap({ params: { names = '', method = '', failed = '', slower = '', search = '' } }) {
  const atLeast = parseSeconds(slower);
  // Plugins that do not report calls, of those that are asked.
  const silent = useRef(new Map());
  const live = useFeed({
    type: 'call',
    topics: { tap: names || '*', tap_method: method.trim(), tap_failed: failed ? 1 : '', tap_at_least: atLeast > 0 ? atLeast : '' },
    read: (message, feed) => read(message, feed, silent.current),
  });
  const query = useMemo(() => parseQuery(search), [search]);
  const unreported = [...silent.current.keys()].filter((name) => !names || names.split(',').includes(name));
  return html`
    <${Page} title="Live tap" subtitle="Calls that plugins serve, as they end" wide>
      <div class="toolbar">
        <${SearchField} label="Search calls" value=${search} onInput=${(text) => setParams({ search: text })} />
        <${NameFilter} value=${names} onChange=${(value) => setParams({ names: value })} />
        <${SettledField} label="Method" placeholder="pkg.Service/" value=${method} onChange=${(text) => setParams({ method: text })} />
        <${SettledField} label="Slower than" placeholder="100 ms" value=${slower} invalid=${(text) => Number.isNaN(parseSeconds(text))}
          onChange=${(text) => setParams({ slower: text })} />
        <${Check} label="Failed only" checked=${Boolean(failed)} onChange=${(on) => setParams({ failed: on ? '1' : '' })} />
      </div>
      ${unreported.length > 0 && html`
        <p class="feed-note muted">${plural(unreported.length, 'plugin')} without reports of calls, since not made with meshtrio:
          ${unreported.slice(0, 10).map((name, index) => html`${index ? ', ' : ' '}<${Text} key=${name} value=${name} />`)}${unreported.length > 10 ? ', …' : ''}</p>`}
      <${FeedView} label="Calls" noun="call" live=${live} matches=${(row) => isFound(row.search, query)}
        empty=${live.feed.rows.length ? 'No call is found.' : 'Waiting for calls that end from now on.'}>${(shown) => html`
          <table class="feed-table calls">
            <caption class="visually-hidden">Calls, the latest last</caption>
            <thead><tr>
              <th scope="col">Time</th><th scope="col" class="cell-instance">Instance</th><th scope="col">Method</th><th scope="col">Status</th>
              <th scope="col" class="numeric">Took</th><th scope="col" class="cell-caller">Caller</th><th scope="col" class="numeric cell-bytes">In / out</th>
            </tr></thead>
            <tbody>${shown.map((row) => (row.marker
              ? html`<tr key=${row.id} class="marker-row"><td colspan="7"><${Marker} row=${row} noun="call" /></td></tr>`
              : html`<${CallRow} key=${row.id} row=${row} words=${query.wanted} />`))}</tbody>
          </table>`}<//>
    <//>`;
}

function read(message, feed, silent) {
  if (message.silent) silent.set(message.plugin, true);
  if (message.call) feed.add(makeCallRow(message));
}
