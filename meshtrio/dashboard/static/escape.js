// Makes what is invisible in foreign text visible. Pure.
//
// What plugins write may hold escape sequences, control characters, and characters that reorder or
// hide what is beside them. They are shown as what they are, and never have an effect.

// Control characters (C0 without tab and newline, DEL, C1), soft hyphen, zero-width and
// bidirectional controls, line separators, the byte order mark, annotation and tag characters,
// noncharacters' neighbours that have no glyph, and halves of surrogate pairs.
const HIDDEN = new RegExp(
  '[\\u0000-\\u0008\\u000b-\\u001f\\u007f-\\u009f\\u00ad\\u034f\\u061c\\u115f\\u1160\\u17b4\\u17b5'
  + '\\u180b-\\u180f\\u200b-\\u200f\\u2028-\\u202e\\u2060-\\u206f\\u3164\\ufeff\\uffa0'
  + '\\ufff0-\\ufffb\\u{e0000}-\\u{e0fff}]|\\p{Surrogate}',
  'gu',
);

const SHORT = { 8: '\\b', 11: '\\v', 12: '\\f', 13: '\\r', 27: '\\e' };

/** The escape that a hidden character is shown as: "\e", "\x07", "\u202e". */
export function escapeCharacter(character) {
  const code = character.codePointAt(0);
  if (SHORT[code]) return SHORT[code];
  if (code < 0x100) return `\\x${code.toString(16).padStart(2, '0')}`;
  return code > 0xffff ? `\\u{${code.toString(16)}}` : `\\u${code.toString(16).padStart(4, '0')}`;
}

/** The text with hidden characters as escapes. With `oneLine`, tabs and newlines are escaped as well. */
export function escapeText(text, { oneLine = false } = {}) {
  const escaped = String(text).replace(HIDDEN, escapeCharacter);
  return oneLine ? escaped.replace(/\n/g, '\\n').replace(/\t/g, '\\t') : escaped;
}

/** Parts of a text, `{text, hidden}`: what stands as it is, and escapes of hidden characters. */
export function splitHidden(text) {
  const whole = String(text);
  const parts = [];
  let start = 0;
  for (const match of whole.matchAll(HIDDEN)) {
    if (match.index > start) parts.push({ text: whole.slice(start, match.index), hidden: false });
    const escape = escapeCharacter(match[0]);
    const last = parts.at(-1);
    if (last?.hidden) last.text += escape;
    else parts.push({ text: escape, hidden: true });
    start = match.index + match[0].length;
  }
  if (start < whole.length) parts.push({ text: whole.slice(start), hidden: false });
  return parts;
}
