// A small line of the latest values.
import { html, memo } from '../lib.js';

const WIDTH = 72;
const HEIGHT = 20;

/** `values` (an array that is replaced when it changes) from 0 to `max`, or to their own maximum. */
export const Sparkline = memo(({ values = [], max = 0, label }) => html`
  <svg class="sparkline" viewBox=${`0 0 ${WIDTH} ${HEIGHT}`} role=${label ? 'img' : undefined} aria-label=${label}
    aria-hidden=${label ? undefined : 'true'} preserveAspectRatio="none">
    ${values.length > 1 && html`<path d=${linePath(values, max)} vector-effect="non-scaling-stroke" />`}
  </svg>`);

/** The path through values that are one step apart, the latest at the right edge. */
export function linePath(values, max = 0, kept = 60) {
  const top = Math.max(max, ...values) || 1;
  const step = WIDTH / (kept - 1);
  const x = (index) => WIDTH - (values.length - 1 - index) * step;
  const y = (value) => HEIGHT - 1 - (value / top) * (HEIGHT - 2);
  return values.map((value, index) => `${index ? 'L' : 'M'}${x(index).toFixed(1)} ${y(value).toFixed(1)}`).join('');
}
