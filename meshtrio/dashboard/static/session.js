// What the page knows of the mesh as a whole, and what has become of it.
import { stream } from './stream.js';
import { Store } from './store.js';

/** The latest `mesh` message, null before the first. */
export const mesh = new Store(null);

/** Number of restarts of the mesh that the page has seen: ids of before mean nothing after one. */
export const restarts = new Store(0);

/** What has happened to the mesh under the open page: `{kind, text, reload}`, or null. */
export const notice = new Store(null);

/** What has happened between two `mesh` messages: `upgraded`, `restarted` or null. */
export function compareMeshes(before, now) {
  if (!before) return null;
  if (now.execution > before.execution) return 'upgraded';
  return now.execution < before.execution || startedAgain(before, now) ? 'restarted' : null;
}

// Clocks that are set may move the time a little.
function startedAgain(before, now) {
  return 'started' in now && 'started' in before && Math.abs(now.started - before.started) > 1;
}

const TEXTS = {
  upgraded: (now) => `The mesh was upgraded and now runs version ${now.version}. Its plugins went on.`,
  restarted: () => 'The mesh was restarted. What is shown is of the new mesh.',
};

export function followMesh() {
  stream.on('mesh', (now) => {
    const before = mesh.value;
    const kind = compareMeshes(before, now);
    if (kind) notice.set({ kind, text: TEXTS[kind](now), reload: now.version !== before.version });
    if (kind === 'restarted') restarts.set(restarts.value + 1);
    mesh.set(now);
  });
}
