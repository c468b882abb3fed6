// What the colours and marks of the timeline mean.
import { html, memo } from '../lib.js';

const BARS = [
  ['starting', 'busy', 'Starting'], ['ready', 'good', 'Ready'], ['unready', 'warn', 'Not ready'], ['draining', 'info', 'Draining'],
  ['running', 'busy', 'Running (task)'],
];
const LINES = [['dashed', 'warn', 'Backoff'], ['solid', 'bad', 'Failed, not restarted'], ['dotted', 'off', 'Stopped or idle']];

export const TimelineLegend = memo(() => html`
  <ul class="plot-legend" aria-label="Legend">
    ${BARS.map(([phase, tone, text]) => html`
      <li key=${phase}><span class=${`phase-swatch phase-${phase} tone-${tone}`} aria-hidden="true"></span>${text}</li>`)}
    ${LINES.map(([line, tone, text]) => html`
      <li key=${line}><span class=${`line-swatch line-${line} tone-${tone}`} aria-hidden="true"></span>${text}</li>`)}
    <li><svg class="legend-mark tone-warn" viewBox="0 0 10 8" aria-hidden="true"><path d="M1 1h8L5 7z" /></svg>Restart</li>
    <li><svg class="legend-mark legend-renewal" viewBox="0 0 10 8" aria-hidden="true"><path d="M1 1h8L5 7z" /></svg>Renewal</li>
    <li><svg class="legend-mark tone-bad" viewBox="0 0 10 10" aria-hidden="true"><path class="cross" d="M1 1l8 8M9 1l-8 8" /></svg>Failure</li>
  </ul>`);
