// Splits TOML into parts to be coloured. Pure. What it does not know stays as it is.

const PATTERNS = [
  ['comment', /^#.*/],
  ['string', /^("""[^]*?"""|'''[^]*?'''|"(?:\\.|[^"\\\n])*"|'[^'\n]*')/],
  ['literal', /^(?:true|false)\b/],
  ['number', /^[+-]?(?:\d[\d_]*(?:\.\d+)?(?:[eE][+-]?\d+)?|inf|nan)\b/],
  ['plain', /^[A-Za-z0-9_.-]+/],
  ['plain', /^\s+/],
];

/** Lines of parts `{kind, text}`: table, key, string, masked, number, literal, comment, plain. */
export function highlightToml(text) {
  const lines = [[]];
  for (const part of tokens(text)) {
    part.text.split('\n').forEach((piece, index) => {
      if (index) lines.push([]);
      if (piece) lines.at(-1).push({ kind: part.kind, text: piece });
    });
  }
  if (!lines.at(-1).length) lines.pop();
  return lines;
}

function* tokens(text) {
  let rest = text;
  let lineStart = true; // Nothing but space since the line began: a key or table may follow.
  while (rest) {
    const [kind, match] = lineStart ? startOfLine(rest) : next(rest);
    yield { kind, text: match };
    rest = rest.slice(match.length);
    lineStart = match.endsWith('\n') || (lineStart && !match.trim());
  }
}

function startOfLine(rest) {
  const table = /^\[\[?[^\]\n]*\]?\]?/.exec(rest);
  if (table) return ['table', table[0]];
  const key = /^(?:"(?:\\.|[^"\\\n])*"|'[^'\n]*'|[A-Za-z0-9_.-])+(?=\s*=)/.exec(rest);
  return key ? ['key', key[0]] : next(rest);
}

function next(rest) {
  for (const [kind, pattern] of PATTERNS) {
    const match = pattern.exec(rest);
    if (match?.[0]) return [kind === 'string' && /\*\*\*/.test(match[0]) ? 'masked' : kind, match[0]];
  }
  return ['plain', [...rest][0]];
}
