// The part of time that a timeline shows. Pure.

export const MIN_SPAN = 10;
export const MAX_SPAN = 86_400 * 1.25;

/** A span within what can be shown. */
export function clampSpan(span) {
  return Math.min(Math.max(span, MIN_SPAN), MAX_SPAN);
}

/** A window `{span, end}`; an `end` of null follows the clock. Zooms by a factor about a time. */
export function zoom({ span, end }, factor, about, now) {
  const next = clampSpan(span * factor);
  const right = end ?? now;
  const at = about ?? right;
  // What is at `about` stays where it is.
  return settle({ span: next, end: at + ((right - at) / span) * next }, now);
}

/** Moves the window by a share of its span. */
export function pan({ span, end }, share, now) {
  return settle({ span, end: (end ?? now) + span * share }, now);
}

/** Moves the window as little as needed to show a time, with some room beside it. */
export function reveal({ span, end }, when, now) {
  const right = end ?? now;
  const margin = span * 0.1;
  if (when < right - span) return settle({ span, end: when + span - margin }, now);
  return when > right ? settle({ span, end: when + margin }, now) : { span, end };
}

// A window whose end reaches the present follows it.
function settle({ span, end }, now) {
  return { span, end: end >= now - span * 0.005 ? null : end };
}

const STEPS = [1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 10_800, 21_600, 43_200, 86_400];

/** Times of ticks between two times, at least `minGap` seconds apart, on round local times. */
export function ticks(from, to, minGap, offset = new Date(from * 1000).getTimezoneOffset() * -60) {
  const step = STEPS.find((each) => each >= minGap) ?? STEPS.at(-1);
  const first = Math.ceil((from + offset) / step) * step - offset;
  return { step, times: Array.from({ length: Math.max(0, Math.floor((to - first) / step) + 1) }, (_, index) => first + index * step) };
}

/** The label of a tick: with seconds only if ticks are less than a minute apart. */
export function tickLabel(unix, step) {
  const when = new Date(unix * 1000);
  const two = (value) => String(value).padStart(2, '0');
  const clock = `${two(when.getHours())}:${two(when.getMinutes())}`;
  if (step < 60) return `${clock}:${two(when.getSeconds())}`;
  return clock === '00:00' ? `${two(when.getMonth() + 1)}-${two(when.getDate())}` : clock;
}
