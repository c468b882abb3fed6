// A chart of values over time, by uPlot, with a legend and a table of its values.
import { time } from '../format.js';
import { html, useEffect, useLayoutEffect, useRef, useState } from '../lib.js';
import { useTheme } from '../theme.js';
import uPlot from '../vendor/uplot.js';
import { Text } from './text.js';

const HEIGHT = 170;
const TABLE_ROWS = 60;

/**
 * `series` are `{label, color, fill, dash}`, with the names of colours in the stylesheet; `values` has an array for each of
 * them, with null where there is none; `format` makes texts of values. Charts with the same `sync` share their cursor.
 */
export function Chart({ title, note, times, series, values, format, sync, from, to }) {
  const box = useRef(null);
  const plot = useRef(null);
  const [index, setIndex] = useState(null);
  const theme = useTheme(box);
  const latest = useRef({});
  latest.current = { setIndex, format };
  const shape = JSON.stringify(series);

  useLayoutEffect(() => {
    if (!theme) return undefined;
    plot.current = new uPlot(options(series, theme, sync, latest, box.current.clientWidth), null, box.current);
    const observer = new ResizeObserver(() => plot.current.setSize({ width: box.current.clientWidth, height: HEIGHT }));
    observer.observe(box.current);
    return () => {
      observer.disconnect();
      plot.current.destroy();
    };
  }, [shape, theme, sync]);
  useEffect(() => {
    if (!plot.current || !theme) return;
    plot.current.setData([times, ...values], false);
    plot.current.setScale('x', { min: from, max: to });
  }, [times, values, from, to, shape, theme]);

  // What is under the cursor, else the latest.
  const at = index !== null && index < times.length ? index : times.length - 1;
  return html`
    <figure class="chart card">
      <figcaption class="chart-head"><h2>${title}</h2><span class="muted">${index === null || at < 0 ? note : time(times[at])}</span></figcaption>
      <div class="chart-plot" ref=${box} role="img" aria-label=${describe(title, series, values, format)}></div>
      <ul class="chart-legend">${series.map(({ label, color }, number) => html`
        <li key=${label}><span class=${`swatch swatch-${color}`}></span><${Text} value=${label} /> <strong>${format(values[number]?.[at] ?? NaN)}</strong></li>`)}</ul>
      <${Values} title=${title} times=${times} series=${series} values=${values} format=${format} />
    </figure>`;
}

/** The values as a table, for who does not see the chart or wants the numbers. */
function Values({ title, times, series, values, format }) {
  const [open, setOpen] = useState(false);
  const first = Math.max(0, times.length - TABLE_ROWS);
  return html`
    <details class="chart-values" onToggle=${(event) => setOpen(event.currentTarget.open)}>
      <summary>Values</summary>
      ${open && html`
        <div class="table-scroll" role="region" aria-label=${`${title}: values`} tabindex="0">
          <table class="table">
            <caption class="visually-hidden">${title}, the latest first</caption>
            <thead><tr><th scope="col">Time</th>${series.map(({ label }) => html`<th scope="col" class="numeric" key=${label}><${Text} value=${label} /></th>`)}</tr></thead>
            <tbody>${times.slice(first).map((when, offset) => html`
              <tr key=${when}><th scope="row">${time(when)}</th>${values.map((each, number) => html`
                <td class="numeric" key=${number}>${format(each[first + offset] ?? NaN)}</td>`)}</tr>`).reverse()}</tbody>
          </table>
        </div>`}
    </details>`;
}

function describe(title, series, values, format) {
  const parts = series.map(({ label }, number) => {
    const known = (values[number] ?? []).filter((each) => each !== null);
    return known.length ? `${label} now ${format(known.at(-1))}, highest ${format(Math.max(...known))}` : `${label} has no values`;
  });
  return `${title}: ${parts.join('; ') || 'no values'}`;
}

// Whole minutes need no seconds.
const timeLabel = (when) => (when % 60 ? time(when) : time(when).slice(0, 5));

function options(series, theme, sync, latest, width) {
  const axis = { stroke: theme.muted, font: theme.font, ticks: { show: false }, grid: { stroke: theme.line, width: 1 } };
  const texts = (_, splits) => splits.map((value) => latest.current.format(value));
  return {
    width,
    height: HEIGHT,
    padding: [10, 22, 0, 0],
    legend: { show: false },
    cursor: { y: false, drag: { x: false, y: false }, sync: { key: sync }, points: { size: 7 } },
    scales: { x: { time: true, auto: false }, y: { range: (_, low, high) => [0, high > 0 ? high * 1.1 : 1] } },
    axes: [
      { ...axis, grid: { show: false }, size: 26, space: 76, gap: 6, values: (_, splits) => splits.map(timeLabel) },
      { ...axis, size: 60, gap: 6, space: 34, values: texts },
    ],
    series: [{}, ...series.map(({ label, color, fill, dash }) => ({
      label,
      stroke: theme[color],
      fill: fill && theme[fill],
      dash,
      width: 1.6,
      points: { show: ({ data }) => data[0].length < 3, size: 5 }, // A line needs more than one.
      spanGaps: false,
    }))],
    hooks: { setCursor: [({ cursor }) => latest.current.setIndex(cursor.idx ?? null)] },
  };
}
