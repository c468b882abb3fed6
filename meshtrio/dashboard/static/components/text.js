// Text and marks.
import { escapeText, splitHidden } from '../escape.js';
import { html, memo } from '../lib.js';
import { toneOf } from '../model/states.js';

/** Foreign text, with hidden characters and escape sequences shown as escapes. */
export const Text = memo(({ value }) => {
  const parts = splitHidden(value ?? '');
  if (!parts.length) return null;
  if (parts.every((part) => !part.hidden)) return html`<bdi>${String(value)}</bdi>`;
  return html`<bdi>${parts.map((part) => (part.hidden
    ? html`<span class="hidden-char" title="control character">${part.text}</span>` : part.text))}</bdi>`;
});

/** Foreign text for attributes such as `title` and `aria-label`, on one line. */
export const plain = (value) => escapeText(value ?? '', { oneLine: true });

const ICONS = {
  good: 'M8 1.5a6.5 6.5 0 1 0 0 13a6.5 6.5 0 1 0 0-13z',
  busy: 'M8 1.5a6.5 6.5 0 1 0 0 13a6.5 6.5 0 1 0 0-13zm0 2.2a4.3 4.3 0 0 1 0 8.6z',
  warn: 'M8 1.2L15.4 14.4H.6z',
  bad: 'M4.6 1.5h6.8l3.1 3.1v6.8l-3.1 3.1H4.6L1.5 11.4V4.6z',
  off: 'M8 1.5a6.5 6.5 0 1 0 0 13a6.5 6.5 0 1 0 0-13zm0 2a4.5 4.5 0 1 1 0 9a4.5 4.5 0 1 1 0-9z',
  info: 'M8 .8L15.2 8L8 15.2L.8 8z',
};

/** The shape of a tone: states differ by shape as well as by colour. */
export const ToneMark = memo(({ tone }) => html`
  <svg class=${`mark tone-${tone}`} viewBox="0 0 16 16" aria-hidden="true">
    <path fill-rule="evenodd" d=${ICONS[tone] ?? ICONS.info} />
  </svg>`);

/** A state of an instance or task: shape, colour and name. `number` stands before it. */
export const StatusBadge = memo(({ state, tone = toneOf(state), number }) => html`
  <span class=${`badge tone-${tone}`}>
    <${ToneMark} tone=${tone} />${number === undefined ? '' : `${number} `}<${Text} value=${state} />
  </span>`);
