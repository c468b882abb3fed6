// What happens to the instances.
import { FeedView, Marker } from '../components/feed_view.js';
import { NameFilter } from '../components/filters.js';
import { Page, SearchField, Select } from '../components/layout.js';
import { Marked } from '../components/marked.js';
import { Text, ToneMark, plain } from '../components/text.js';
import { useFeed } from '../feed_data.js';
import { dateTime, timeOrDate } from '../format.js';
import { html, memo, useMemo } from '../lib.js';
import { useMembers } from '../members.js';
import { toneOfEvent } from '../model/states.js';
import { isFound, parseQuery } from '../model/search.js';
import { isAtLeast } from '../model/log_rows.js';
import { href, setParams } from '../router.js';

const PAST = 1000;

const LEVEL_OPTIONS = [['', 'All'], ['WARNING', 'WARNING and above'], ['ERROR', 'ERROR']];

export default function Events({ params: { names = '', level = '', search = '' } }) {
  const live = useFeed({
    type: 'event', topics: { events: PAST }, past: PAST, source: () => '', order: ({ sequence }) => sequence, read, limit: 2000,
  });
  const members = useMembers(names);
  const query = useMemo(() => parseQuery(search), [search]);
  const matches = (row) => (!members || members.has(row.plugin)) && isAtLeast(row.level, level) && isFound(row.search, query);
  const today = new Date().toDateString();
  return html`
    <${Page} title="Events" subtitle="What happens to instances and tasks" wide>
      <div class="toolbar">
        <${SearchField} label="Search events" value=${search} onInput=${(text) => setParams({ search: text })} />
        <${NameFilter} value=${names} onChange=${(value) => setParams({ names: value })} />
        <${Select} label="Level" options=${LEVEL_OPTIONS} value=${level} onChange=${(value) => setParams({ level: value })} />
      </div>
      <${FeedView} label="Events" noun="event" live=${live} matches=${matches}
        empty=${live.feed.rows.length ? 'No event is found.' : 'Nothing has happened so far.'}>${(shown) => html`
          <table class="feed-table events">
            <caption class="visually-hidden">Events, the latest last</caption>
            <thead><tr><th scope="col">Time</th><th scope="col">Kind</th><th scope="col">Instance</th><th scope="col">What happened</th></tr></thead>
            <tbody>${shown.map((row) => html`
              <${EventRow} key=${row.id} row=${row} version=${row.version} words=${query.wanted} today=${today} />`)}</tbody>
          </table>`}<//>
    <//>`;
}

function read(event, feed) {
  const search = `${event.plugin}/${event.instance}\n${event.kind}\n${event.text}`.toLowerCase();
  feed.add({ ...event, search, version: 0 });
}

const EventRow = memo(({ row, words, today }) => {
  if (row.marker) return html`<tr class="marker-row"><td colspan="4"><${Marker} row=${row} noun="event" /></td></tr>`;
  const instance = `${row.plugin}/${row.instance}`;
  const tone = toneOfEvent(row);
  return html`
    <tr class=${`tone-${tone}`} data-row>
      <td class="cell-time"><time title=${dateTime(row.time, 3)}>${timeOrDate(row.time, Date.parse(today) / 1000)}</time></td>
      <td class="cell-kind"><span class="event-kind"><${ToneMark} tone=${tone} /><span class="visually-hidden">${row.level} </span><${Text} value=${row.kind} /></span></td>
      <td class="cell-instance"><a href=${href('tree', { select: instance })} title=${plain(row.pid ? `pid ${row.pid}` : '')}><${Text} value=${instance} /></a></td>
      <td class="cell-text"><${Marked} value=${row.text} words=${words} /></td>
    </tr>`;
});
