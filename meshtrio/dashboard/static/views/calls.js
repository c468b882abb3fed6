// Calls by plugin and method: how many, how long they take, and how they fail.
import { followCalls, history, problem, samples } from '../calls_data.js';
import { CallCharts } from '../components/call_charts.js';
import { NameFilter } from '../components/filters.js';
import { Empty, ErrorNote, Page, SearchField, Segmented } from '../components/layout.js';
import { Sparkline } from '../components/sparkline.js';
import { Table } from '../components/table.js';
import { Text, plain } from '../components/text.js';
import { count, duration, NONE, percent, plural, rate } from '../format.js';
import { html, useEffect, useMemo, useRef } from '../lib.js';
import { useMembers } from '../members.js';
import { reuse, seriesKey } from '../model/calls.js';
import { isFound, parseQuery } from '../model/search.js';
import { toneOfStatus } from '../model/status.js';
import { setParams } from '../router.js';
import { mesh } from '../session.js';
import { useStore } from '../store.js';

const SPANS = [['60', '1 min'], ['300', '5 min'], ['900', '15 min']];
const VIAS = [['plugin', 'Served by plugins'], ['gateway', 'Through the gateway']];

const methodOf = ({ service, method }) => `${service}/${method}`;

const METHOD = {
  key: 'method', title: 'Method', className: 'cell-method', sort: methodOf,
  render: ({ service, method }) => html`
    <span class="method-service"><${Text} value=${service} />/</span><wbr /><span class="method-name"><${Text} value=${method} /></span>`,
};
const PLUGIN = { key: 'plugin', title: 'Plugin', sort: ({ plugin }) => plugin, render: ({ plugin }) => html`<${Text} value=${plugin} />` };
const NUMBERS = [
  {
    key: 'rate', title: 'Calls', numeric: true, className: 'cell-rate', sort: (row) => row.rate,
    render: (row) => html`<${Sparkline} values=${row.history} /><span>${row.rate ? rate(row.rate) : NONE}</span>`,
  },
  { key: 'inFlight', title: 'In flight', numeric: true, sort: (row) => row.inFlight, render: (row) => (row.inFlight ? count(row.inFlight) : NONE) },
  { key: 'errors', title: 'Errors', className: 'cell-errors', numeric: true, sort: (row) => row.errorShare, render: (row) => html`<${Errors} ...${row} />` },
  ...['p50', 'p95', 'p99'].map((name) => ({
    key: name, title: name, numeric: true, sort: (row) => row[name], render: (row) => duration(row[name] ?? NaN),
  })),
];
const SERVICE = { key: 'target', title: 'Service', sort: ({ target }) => target, render: ({ target }) => html`<${Text} value=${target || NONE} />` };
const COLUMNS = { plugin: [METHOD, PLUGIN, ...NUMBERS], gateway: [METHOD, SERVICE, ...NUMBERS] };

function Errors({ errors, errorShare }) {
  if (!errors.length) return NONE;
  return html`
    <span class="error-share">${percent(errorShare)}</span>
    <span class="chips">${errors.map(([status, number]) => html`
      <span key=${status} class=${`chip tone-${toneOfStatus(status)}`}>${count(number)} <${Text} value=${status} /></span>`)}</span>`;
}

export default function Calls({ params }) {
  const { names = '', method = '', search = '' } = params;
  const via = params.via === 'gateway' ? 'gateway' : 'plugin';
  const span = SPANS.some(([value]) => value === params.span) ? params.span : '300';
  const sample = useStore(samples);
  const trouble = useStore(problem);
  const gateway = useStore(mesh, (now) => Boolean(now?.gateway));
  useEffect(followCalls, []);

  const before = useRef([]);
  const rows = useMemo(() => {
    before.current = reuse(before.current, history.table(Number(span)));
    return before.current;
  }, [sample, span]);
  const query = useMemo(() => parseQuery(search), [search]);
  const members = useMembers(names);
  const shown = useMemo(() => rows.filter((row) => row.via === via && (!members || members.has(row.plugin))
    && isFound(`${row.plugin} ${methodOf(row)}`.toLowerCase(), query)), [rows, via, members, query]);
  const chosen = shown.filter((row) => methodOf(row) === method && (!params.plugin || row.plugin === params.plugin));
  const selected = chosen.length === 1 ? chosen[0] : null;
  const choose = (row) => setParams(row === selected ? { method: '', plugin: '' } : { method: methodOf(row), plugin: row.plugin });
  const wanted = chosen.length ? chosen : shown;

  return html`
    <${Page} title="Calls" subtitle="Rates, latencies and errors by method, kept while this page is open" wide actions=${html`
      <${Segmented} label="Time span" options=${SPANS} value=${span} onChange=${(value) => setParams({ span: value })} />`}>
      <div class="toolbar">
        <${SearchField} label="Search methods" value=${search} onInput=${(text) => setParams({ search: text })} />
        ${(gateway || via === 'gateway') && html`<${Segmented} label="Counted where" options=${VIAS} value=${via}
          onChange=${(value) => setParams({ via: value, method: '', plugin: '' })} />`}
        <${NameFilter} value=${names} onChange=${(value) => setParams({ names: value, method: '', plugin: '' })} />
      </div>
      ${trouble && html`<${ErrorNote} error=${trouble} what="Calls are not counted:" />`}
      <${Scope} chosen=${chosen} shown=${shown} via=${via} />
      <${CallCharts} history=${history} sample=${sample} span=${Number(span)} keys=${wanted.map(({ key }) => key)} total=${totalOf(via, wanted, chosen)} />
      ${shown.length
        ? html`<${Table} caption="Calls by method" className="calls-table" columns=${COLUMNS[via]} rows=${shown} rowKey=${({ key }) => key}
            sort=${{ key: 'rate', reverse: true }} onRow=${choose} selectedKey=${selected?.key ?? ''} />`
        : html`<${Nothing} sample=${sample} filtered=${rows.length > 0} via=${via} />`}
    <//>`;
}

/** What the charts are of. */
function Scope({ chosen, shown, via }) {
  if (!chosen.length) {
    const plugins = new Set(shown.map(({ plugin }) => plugin)).size;
    return html`<p class="scope muted">${plural(shown.length, 'method')}${via === 'plugin' ? ` of ${plural(plugins, 'plugin')}` : ' through the gateway'}</p>`;
  }
  return html`
    <p class="scope"><strong><${Text} value=${methodOf(chosen[0])} /></strong>${' '}
      ${via === 'plugin' && html`<span class="muted">of <${Text} value=${[...new Set(chosen.map(({ plugin }) => plugin))].join(', ')} /></span>`}
      <button type="button" class="quiet" aria-label=${plain(`Show all methods instead of ${methodOf(chosen[0])}`)}
        onClick=${() => setParams({ method: '', plugin: '' })}>Show all</button></p>`;
}

function Nothing({ sample, filtered, via }) {
  if (!sample) return html`<${Empty} title="Counting">The first values come within seconds.<//>`;
  if (filtered) return html`<${Empty} title="No method is found">Other filters may find some.<//>`;
  return html`<${Empty} title="No calls so far">${via === 'gateway' ? 'Nothing was called through the gateway since this page looks at calls.'
    : 'No plugin that reports calls was called since this page looks at them.'}<//>`;
}

/** The key of the sum over what is shown, if the mesh counts just that. */
function totalOf(via, wanted, chosen) {
  const plugins = [...new Set(wanted.map(({ plugin }) => plugin))];
  return !chosen.length && plugins.length === 1 ? seriesKey({ via, plugin: plugins[0], service: '', method: '' }) : null;
}
