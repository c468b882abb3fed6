// The view and its parameters are the hash of the address: #/logs?names=echo&level=error.
import { Store } from './store.js';

export const DEFAULT_VIEW = 'tree';

/** What a hash says, as `{view, params}`. */
export function parseHash(hash) {
  const [path, query = ''] = hash.replace(/^#\/?/, '').split(/\?(.*)/s);
  return { view: path || DEFAULT_VIEW, params: Object.fromEntries(new URLSearchParams(query)) };
}

/** The hash of a view. Parameters that are empty, null or undefined are left out. */
export function href(view, params = {}) {
  const kept = Object.entries(params).filter(([, value]) => value !== '' && value != null);
  const query = new URLSearchParams(kept).toString();
  return `#/${view}${query ? `?${query}` : ''}`;
}

/** The current `{view, params}`. */
export const route = new Store(parseHash(globalThis.location?.hash ?? ''));

const update = () => route.set(parseHash(location.hash));
globalThis.addEventListener?.('hashchange', update);

/** Goes to a view; it is an entry of the browser's history. */
export function navigate(view, params) {
  location.hash = href(view, params);
}

/** Changes parameters of the current view in place, such as a filter that is typed. */
export function setParams(changes) {
  const { view, params } = route.value;
  const hash = href(view, { ...params, ...changes });
  history.replaceState(null, '', hash);
  // Browsers ignore what comes too often, so the address is not asked.
  route.set(parseHash(hash));
}
