// Charts of calls: their rate, their latency, and their errors by status.
import { duration, rate } from '../format.js';
import { html, useMemo } from '../lib.js';
import { Chart } from './chart.js';

const ERROR_COLORS = ['bad', 'warn', 'info', 'busy', 'off'];
const MIN_SPAN = 60; // Seconds.

const RATE = [{ label: 'All', color: 'accent', fill: 'accent-soft' }, { label: 'Failed', color: 'bad', fill: 'bad-soft' }];
const LATENCY = [{ label: 'p50', color: 'good' }, { label: 'p95', color: 'busy' }, { label: 'p99', color: 'warn' }];

export function CallCharts({ history, sample, span, keys, total }) {
  const chart = useMemo(() => history.chart(keys, span, total), [history, sample, span, keys.join('\n'), total]);
  const errors = useMemo(() => mostErrors(chart.statuses), [chart]);
  const to = history.latest;
  // While there is little history yet, it is shown large.
  const from = Math.max(to - span, Math.min(chart.times[0] ?? to, to - MIN_SPAN));
  const shared = { times: chart.times, from, to, sync: 'calls' };
  const rates = useMemo(() => [chart.rate, chart.errorRate], [chart]);
  const latencies = useMemo(() => [chart.p50, chart.p95, chart.p99], [chart]);
  return html`
    <div class="charts">
      <${Chart} ...${shared} title="Rate" note="calls per second" series=${RATE} values=${rates} format=${rate} />
      <${Chart} ...${shared} title="Latency" note=${chart.exact || keys.length < 2 ? '' : 'of the slowest method'} series=${LATENCY} values=${latencies} format=${duration} />
      <${Chart} ...${shared} title="Errors" note=${errors.series.length ? 'by status, per second' : 'none'} series=${errors.series} values=${errors.values} format=${rate} />
    </div>`;
}

/** Series of the statuses that most calls failed with; of the others one together. */
function mostErrors(statuses) {
  const sums = [...statuses].map(([status, values]) => [status, values, values.reduce((sum, each) => sum + each, 0)])
    .filter(([, , sum]) => sum > 0).sort(([, , a], [, , b]) => b - a);
  const most = sums.slice(0, sums.length > ERROR_COLORS.length ? ERROR_COLORS.length - 1 : undefined);
  const rest = sums.slice(most.length).map(([, values]) => values);
  const lines = most.map(([status, values]) => [status, values]);
  if (rest.length) lines.push(['others', rest[0].map((_, index) => (rest[0][index] === null ? null : rest.reduce((sum, values) => sum + values[index], 0)))]);
  return {
    series: lines.map(([label], index) => ({ label, color: ERROR_COLORS[index], fill: index ? undefined : 'bad-soft' })),
    values: lines.map(([, values]) => values),
  };
}
