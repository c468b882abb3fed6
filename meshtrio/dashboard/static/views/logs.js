// What the plugins write.
import { FeedView, Marker } from '../components/feed_view.js';
import { NameFilter } from '../components/filters.js';
import { Page, SearchField, Select } from '../components/layout.js';
import { LogRow } from '../components/log_row.js';
import { useFeed } from '../feed_data.js';
import { html, useMemo, useRef } from '../lib.js';
import { LEVELS, LogRows, sourceOf } from '../model/log_rows.js';
import { isFound, parseQuery } from '../model/search.js';
import { setParams } from '../router.js';

const PAST = 1000; // Lines to begin with.

const LEVEL_OPTIONS = [['', 'All'], ...LEVELS.map((level) => [level, level === 'CRITICAL' ? level : `${level} and above`])];

export default function Logs({ params: { names = '', level = '', search = '' } }) {
  const rows = useRef(null);
  rows.current ??= new LogRows();
  const live = useFeed({
    type: 'log',
    topics: { logs: names || '*', log_level: LEVELS.includes(level) ? level : '', log_last: PAST },
    past: PAST,
    source: sourceOf,
    order: ({ time }) => time,
    read: (line, feed) => read(line, feed, rows.current),
    weigh: ({ size = 0 }) => size,
  });
  const query = useMemo(() => parseQuery(search), [search]);
  return html`
    <${Page} title="Logs" subtitle="What plugins write to stdout and stderr" wide>
      <div class="toolbar">
        <${SearchField} label="Search lines" value=${search} onInput=${(text) => setParams({ search: text })} />
        <${NameFilter} value=${names} onChange=${(value) => setParams({ names: value })} />
        <${Select} label="Level" options=${LEVEL_OPTIONS} value=${level} onChange=${(value) => setParams({ level: value })} />
      </div>
      <${FeedView} label="Log lines" noun="line" live=${live} matches=${(row) => isFound(row.search, query)}
        empty=${search && live.feed.rows.length ? 'No line is found.' : 'No lines so far.'}>${(shown) => html`
          <ol class="log" aria-label="Log lines">
            ${shown.map((row) => (row.marker
              ? html`<li key=${row.id} class="log-marker"><${Marker} row=${row} noun="line" /></li>`
              : html`<${LogRow} key=${row.id} row=${row} version=${row.version} words=${query.wanted} />`))}
          </ol>`}<//>
    <//>`;
}

function read(line, feed, rows) {
  if (line.missed) rows.reset();
  // A line without a level only tells of missed ones.
  if (!line.level && !line.text) return;
  const row = rows.add(line);
  if (row) feed.add(row);
}
