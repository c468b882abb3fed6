// The timeline as a picture: a canvas for each row, drawn only while it is in sight.
import { html, memo, useEffect, useId, useLayoutEffect, useRef, useState } from '../lib.js';
import { describeLife, nearestLife } from '../model/lives.js';
import { pan, reveal, zoom } from '../model/time_axis.js';
import { href } from '../router.js';
import { TimelineLegend } from './timeline_legend.js';
import { plain, Text } from './text.js';
import { drawAxis, drawRow, lifeAt, readTheme, rowHeight } from './timeline_drawing.js';

export function TimelinePlot({ rows, from, to, now, oldest, view, setView, selected, onSelect }) {
  const plot = useRef(null);
  const help = useId();
  const width = useWidth(plot);
  const theme = useTheme(plot);
  const latest = useRef({});
  latest.current = { rows, from, to, now, view, setView, selected, onSelect, width };
  const handlers = useRef(null);
  handlers.current ??= makeHandlers(latest);
  return html`
    <div class="timeline">
      <div class="plot" ref=${plot} role="application" aria-roledescription="timeline" aria-label="Lives of processes" aria-describedby=${help}
        tabindex="0" onKeyDown=${handlers.current.keyDown} onWheel=${handlers.current.wheel} onPointerDown=${handlers.current.pointerDown}>
        <div class="plot-axis"><span class="plot-name"></span><${Axis} from=${from} to=${to} width=${width} theme=${theme} /></div>
        ${rows.map((row) => html`
          <${PlotRow} key=${row.key} row=${row} from=${from} to=${to} oldest=${oldest} width=${width} theme=${theme}
            selectedId=${selected && row.lives.includes(selected) ? selected.id : null} />`)}
      </div>
      <p class="plot-help muted" id=${help}>Arrow keys move between processes and instances, + and − zoom, Shift with the arrow keys moves in
        time, 0 returns to now, Escape deselects. With the mouse: drag to move, Ctrl and wheel to zoom, click for details.</p>
      <p class="visually-hidden" role="status">${selected ? plain(describeLife(selected, now)) : ''}</p>
      <${TimelineLegend} />
    </div>`;
}

const Axis = memo(({ from, to, width, theme }) => {
  const canvas = useRef(null);
  useLayoutEffect(() => {
    if (theme && width) drawAxis(canvas.current, { from, to, width }, theme);
  }, [from, to, width, theme]);
  return html`<canvas ref=${canvas} class="axis" aria-hidden="true"></canvas>`;
});

const PlotRow = memo(({ row, from, to, oldest, width, theme, selectedId }) => {
  const element = useRef(null);
  const canvas = useRef(null);
  const inSight = useInSight(element);
  useLayoutEffect(() => {
    const now = Date.now() / 1000;
    if (inSight && theme && width) drawRow(canvas.current, row, { from, to, now, oldest, width }, theme, selectedId);
  }, [row, from, to, oldest, width, theme, selectedId, inSight]);
  return html`
    <div class="plot-row" ref=${element} data-key=${row.key}>
      <a class="plot-name" tabindex="-1" title=${plain(row.key)} href=${href('tree', { select: row.key })}><${Text} value=${row.key} /></a>
      <canvas ref=${canvas} aria-hidden="true" style=${{ height: `${rowHeight(row)}px` }}></canvas>
    </div>`;
});

/** The width of the canvases, which fill what the names leave. */
function useWidth(plot) {
  const [width, setWidth] = useState(0);
  useLayoutEffect(() => {
    const measure = () => setWidth(Math.floor(plot.current.querySelector('.axis').clientWidth));
    const observer = new ResizeObserver(measure);
    observer.observe(plot.current);
    measure();
    return () => observer.disconnect();
  }, []);
  return width;
}

/** The colours, read again when the system changes between light and dark. */
function useTheme(plot) {
  const [theme, setTheme] = useState(null);
  useLayoutEffect(() => {
    const read = () => setTheme(readTheme(plot.current));
    const scheme = matchMedia('(prefers-color-scheme: dark)');
    scheme.addEventListener('change', read);
    read();
    return () => scheme.removeEventListener('change', read);
  }, []);
  return theme;
}

function useInSight(element) {
  const [inSight, setInSight] = useState(false);
  useEffect(() => {
    const observer = new IntersectionObserver(([entry]) => setInSight(entry.isIntersecting), { rootMargin: '120px' });
    observer.observe(element.current);
    return () => observer.disconnect();
  }, []);
  return inSight;
}

function makeHandlers(latest) {
  const timeAt = (offset) => {
    const { from, to, width } = latest.current;
    return from + (offset / width) * (to - from);
  };
  const choose = (life) => {
    const { view, setView, now, onSelect } = latest.current;
    if (!life) return;
    onSelect(life);
    const [from, to] = [life.started, life.ended ?? now];
    const right = view.end ?? now;
    // One that is partly in sight is found without moving.
    if (to < right - view.span) setView(reveal(view, to, now));
    else if (from > right) setView(reveal(view, from, now));
  };
  return {
    keyDown(event) {
      if (event.ctrlKey || event.metaKey || event.altKey) return;
      const move = moveFor(event, latest.current, choose);
      if (!move) return;
      event.preventDefault();
      move();
    },
    wheel(event) {
      if (!event.ctrlKey || event.target.tagName !== 'CANVAS') return;
      event.preventDefault();
      const { view, setView, now } = latest.current;
      setView(zoom(view, event.deltaY > 0 ? 1.25 : 0.8, timeAt(event.offsetX), now));
    },
    pointerDown(event) {
      if (event.button !== 0 || event.target.tagName !== 'CANVAS') return;
      trackPointer(event, latest);
    },
  };
}

/** What a key does, undefined if nothing. */
function moveFor({ key, shiftKey }, { rows, view, setView, now, selected, onSelect, from, to }, choose) {
  const index = rows.findIndex((row) => row.lives.includes(selected));
  const about = selected ? Math.min(Math.max(selected.started, from), to) : null;
  const step = (offset) => {
    const { lives } = rows[index] ?? { lives: [] };
    choose(selected ? lives[lives.indexOf(selected) + offset] : nearestLife(rows[0], to, now));
  };
  const row = (offset) => {
    const next = rows[selected ? index + offset : 0];
    if (!next) return;
    choose(nearestLife(next, about ?? to, now));
    document.querySelector(`[data-key="${CSS.escape(next.key)}"]`)?.scrollIntoView({ block: 'nearest' });
  };
  const moves = {
    ArrowLeft: () => (shiftKey ? setView(pan(view, -0.25, now)) : step(-1)),
    ArrowRight: () => (shiftKey ? setView(pan(view, 0.25, now)) : step(1)),
    ArrowUp: () => row(-1),
    ArrowDown: () => row(1),
    '+': () => setView(zoom(view, 0.5, about, now)),
    '=': () => setView(zoom(view, 0.5, about, now)),
    '-': () => setView(zoom(view, 2, about, now)),
    0: () => setView({ ...view, end: null }),
    Enter: () => document.getElementById('details-title')?.focus(),
    Escape: () => onSelect(null),
  };
  return moves[key];
}

/** Follows a press: one that moves pans, one that does not chooses the life under it. */
function trackPointer(down, latest) {
  const start = { ...latest.current };
  const canvas = down.target;
  const [x, y] = [down.offsetX, down.offsetY];
  let moved = false;
  const move = (event) => {
    const distance = event.clientX - down.clientX;
    moved ||= Math.abs(distance) > 4;
    if (moved) start.setView(pan({ span: start.view.span, end: start.to }, -distance / start.width, start.now));
  };
  const stop = () => {
    removeEventListener('pointermove', move);
    removeEventListener('pointerup', up);
    removeEventListener('pointercancel', stop);
  };
  const up = () => {
    stop();
    if (moved) return;
    const { rows, from, to, now, width, onSelect } = latest.current;
    const row = rows.find(({ key }) => key === canvas.closest('[data-key]')?.dataset.key);
    onSelect(row ? lifeAt(row, { from, to, now, width }, x, y) : null);
  };
  addEventListener('pointermove', move);
  addEventListener('pointerup', up);
  addEventListener('pointercancel', stop);
}
