// The timeline: the lives of processes over the last hours.
import { Empty, Page, Reply, SearchField, Segmented } from '../components/layout.js';
import { LifeDetails } from '../components/life_details.js';
import { LifeTable } from '../components/life_table.js';
import { TimelinePlot } from '../components/timeline_plot.js';
import { useNow } from '../data.js';
import { dateTime } from '../format.js';
import { html, useEffect, useMemo, useRef, useState } from '../lib.js';
import { useLives } from '../lives_data.js';
import { clampSpan, pan, zoom } from '../model/time_axis.js';
import { setParams } from '../router.js';

const RANGES = [[900, '15 min'], [3600, '1 h'], [21_600, '6 h'], [86_400, '24 h']];

export default function Timeline({ params }) {
  const [view, setView, fitView] = useView(params);
  // Nothing moves by less than a pixel: a day needs no clock that ticks each second.
  const now = useNow(Math.min(Math.max(1, view.span / 1200), 10));
  const { end, span } = view;
  const [to, from] = [end ?? now, (end ?? now) - span];
  const lives = useLives(from);
  useEffect(() => fitView(now - lives.oldest), [lives.oldest]);
  const { q = params.names ?? '', as = 'chart', life: selectedId } = params;
  const rows = useMemo(
    () => lives.store.rows(from).filter((row) => !q || row.key.toLowerCase().includes(q.toLowerCase())),
    [lives.version, q, Math.floor(from / 10)],
  );
  const selected = rows.flatMap((row) => row.lives).find(({ id }) => String(id) === selectedId);
  const select = (life) => setParams({ life: life?.id ?? null });
  const controls = { view, setView, now };
  return html`
    <${Page} title="Timeline" wide subtitle="The processes that instances and tasks have had, and how each of them ended"
      actions=${html`<${Segmented} label="Show as" options=${[['chart', 'Chart'], ['table', 'Table']]} value=${as}
        onChange=${(value) => setParams({ as: value === 'chart' ? null : value })} />`}>
      <div class="toolbar">
        <${SearchField} label="Filter by name" value=${q} onInput=${(value) => setParams({ q: value, names: null })} />
        <${Segmented} label="Range" options=${RANGES} value=${span} onChange=${(value) => setView({ span: value, end })} />
        <${ViewButtons} ...${controls} />
      </div>
      <${Reply} of=${lives.reply} what="The history">${() => html`
        <div class=${selected ? 'tree-layout has-details' : 'tree-layout'}>
          <div>
            <${KnownSince} oldest=${lives.oldest} from=${from} />
            ${rows.length === 0 && html`<${Empty} title="No processes">No process ran in this range${q ? ' whose name matches' : ''}.<//>`}
            ${rows.length > 0 && (as === 'table'
              ? html`<${LifeTable} rows=${rows} from=${from} to=${to} now=${now} selected=${selected} onSelect=${select} />`
              : html`<${TimelinePlot} rows=${rows} from=${from} to=${to} oldest=${lives.oldest} ...${controls} selected=${selected} onSelect=${select} />`)}
          </div>
          ${selected && html`<${LifeDetails} key=${selected.id} life=${selected} now=${now} takeFocus=${as === 'table'} onClose=${() => select(null)} />`}
        </div>`}<//>
    <//>`;
}

/**
 * The window of time, kept in the address so that a link shows the same; a function that sets it; and
 * one that makes it short if only a short history is known, and the address does not say otherwise.
 */
function useView(params) {
  const usual = useRef(3600);
  const [view, setView] = useState(() => ({
    span: clampSpan(Number(params.span) || usual.current),
    end: Number(params.end) || null,
  }));
  const written = useRef(params);
  useEffect(() => {
    if (params.span === written.current.span && params.end === written.current.end) return;
    written.current = params; // By a link.
    setView({ span: clampSpan(Number(params.span) || usual.current), end: Number(params.end) || null });
  }, [params.span, params.end]);
  useEffect(() => {
    // Browsers limit how often an address may change.
    const timer = setTimeout(() => {
      const changes = {
        span: view.span === usual.current ? undefined : String(Math.round(view.span)), end: view.end ? String(Math.round(view.end)) : undefined,
      };
      written.current = changes;
      setParams(changes);
    }, 400);
    return () => clearTimeout(timer);
  }, [view.span, view.end]);
  const fit = (known) => {
    const [[shortest]] = RANGES;
    if (params.span || params.end || !(known < shortest) || view.span !== usual.current) return;
    usual.current = shortest;
    setView({ span: shortest, end: null });
  };
  return [view, setView, fit];
}

function ViewButtons({ view, setView, now }) {
  const middle = (view.end ?? now) - view.span / 2;
  const buttons = [
    ['Zoom out', '−', () => zoom(view, 2, middle, now)],
    ['Zoom in', '+', () => zoom(view, 0.5, view.end === null ? null : middle, now)],
    ['Earlier', '←', () => pan(view, -0.5, now)],
    ['Later', '→', () => pan(view, 0.5, now)],
  ];
  return html`
    <div class="buttons" role="group" aria-label="Range">
      ${buttons.map(([label, sign, next]) => html`
        <button type="button" key=${label} class="square" aria-label=${label} title=${label} onClick=${() => setView(next())}>${sign}</button>`)}
      <button type="button" aria-pressed=${view.end === null} onClick=${() => setView({ ...view, end: null })}>Now</button>
    </div>`;
}

function KnownSince({ oldest, from }) {
  if (!oldest || oldest <= from + 1) return null;
  return html`<p class="muted known-since">The history is known since ${dateTime(oldest)}.</p>`;
}
