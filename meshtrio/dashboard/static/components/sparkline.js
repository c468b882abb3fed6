// A small line of the latest values.
import { html, memo } from '../lib.js';

const WIDTH = 72;
const HEIGHT = 20;

/** `values` (an array that is replaced when it changes) from 0 to `max`, or to their own maximum. */
export const Sparkline = memo(({ values = [], max = 0, label }) => html`
  <svg class="sparkline" viewBox=${`0 0 ${WIDTH} ${HEIGHT}`} role=${label ? 'img' : undefined} aria-label=${label}
    aria-hidden=${label ? undefined : 'true'} preserveAspectRatio="none">
    ${values.length > 3 && html`<path d=${linePath(values, max)} vector-effect="non-scaling-stroke" />`}
  </svg>`);

// Much faster than toFixed, for hundreds of lines a second.
const round = (value) => Math.round(value * 10) / 10;

/** The path through values that are one step apart, the latest at the right edge. */
export function linePath(values, max = 0) {
  const top = Math.max(max, ...values) || 1;
  // The first few do not fill it: two values are no history.
  const step = WIDTH / Math.max(values.length - 1, 19);
  const x = (index) => round(WIDTH - (values.length - 1 - index) * step);
  const y = (value) => round(HEIGHT - 1 - (value / top) * (HEIGHT - 2));
  return values.reduce((path, value, index) => `${path}${index ? 'L' : 'M'}${x(index)} ${y(value)}`, '');
}
