// The colours of the stylesheet for canvases, which have no CSS.
import { readTheme } from './components/timeline_drawing.js';
import { useLayoutEffect, useState } from './lib.js';

/** The theme of an element, read again when the system changes between light and dark; null at first. */
export function useTheme(element) {
  const [theme, setTheme] = useState(null);
  useLayoutEffect(() => {
    const read = () => setTheme(readTheme(element.current));
    const scheme = matchMedia('(prefers-color-scheme: dark)');
    scheme.addEventListener('change', read);
    read();
    return () => scheme.removeEventListener('change', read);
  }, []);
  return theme;
}
