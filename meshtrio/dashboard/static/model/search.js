// Search in text: words, all of which have to be there, and words after "-", none of which may. Pure.

/** The words of a query, as `{wanted, unwanted}`, in lower case. "quotes" keep spaces. */
export function parseQuery(query) {
  const [wanted, unwanted] = [[], []];
  for (const [, minus, quoted, word] of query.toLowerCase().matchAll(/(-?)(?:"([^"]*)"?|(\S+))/g)) {
    const text = quoted ?? word;
    if (text && text !== '-') (minus ? unwanted : wanted).push(text);
  }
  return { wanted, unwanted };
}

/** Whether a text, which is in lower case, is found by a parsed query. */
export function isFound(text, { wanted, unwanted }) {
  return wanted.every((word) => text.includes(word)) && !unwanted.some((word) => text.includes(word));
}

/** Parts of a text, `{text, match}`, by where words of the query are. Words are in lower case. */
export function splitMatches(text, words) {
  const whole = String(text);
  // What has another length in lower case would shift all that follows.
  const lower = whole.toLowerCase();
  if (!words.length || lower.length !== whole.length) return [{ text: whole, match: false }];
  const parts = [];
  let start = 0;
  while (start < whole.length) {
    const [from, to] = nextMatch(lower, words, start);
    if (from > start) parts.push({ text: whole.slice(start, from), match: false });
    if (to > from) parts.push({ text: whole.slice(from, to), match: true });
    start = to;
  }
  return parts;
}

function nextMatch(lower, words, start) {
  let best = [lower.length, lower.length];
  for (const word of words) {
    const from = lower.indexOf(word, start);
    if (from >= 0 && (from < best[0] || (from === best[0] && from + word.length > best[1]))) best = [from, from + word.length];
  }
  return best;
}
