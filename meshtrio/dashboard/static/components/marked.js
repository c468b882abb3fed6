// Text with what was searched for marked in it.
import { html, memo } from '../lib.js';
import { splitMatches } from '../model/search.js';
import { Text } from './text.js';

/** Foreign text; `words` (in lower case, an array that is replaced when it changes) are marked. */
export const Marked = memo(({ value, words }) => {
  if (!words?.length) return html`<${Text} value=${value} />`;
  return splitMatches(value ?? '', words).map(({ text, match }) => (match
    ? html`<mark><${Text} value=${text} /></mark>` : html`<${Text} value=${text} />`));
});
