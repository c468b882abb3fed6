// The lives of processes that the page knows, kept up to date by the stream.
import { getJson } from './api.js';
import { useApi, useMessages, useTopics } from './data.js';
import { useEffect, useRef, useState } from './lib.js';
import { LifeStore } from './model/lives.js';
import { MAX_SPAN } from './model/time_axis.js';
import { restarts } from './session.js';
import { useStore } from './store.js';

const STEP = 600; // Seconds; so that a moving window does not ask again each time.
const MAX_PAGES = 20;

/** `{store, version, oldest, reply}`: lives that lasted until `from` or longer. `version` counts changes. */
export function useLives(from) {
  const store = useRef(new LifeStore()).current;
  const [version, setVersion] = useState(0);
  const since = useRef(Infinity);
  since.current = Math.min(since.current, Math.floor(from / STEP) * STEP);
  const reply = useApi('history', { since: since.current }, { live: true });
  const changed = () => setVersion((before) => before + 1);
  const restarted = useStore(restarts);
  useEffect(() => store.clear(), [restarted]);
  useTopics({ history: 1 });
  useMessages('history', (message) => {
    store.add(message.lives);
    changed();
    if (message.missed) reply.refresh();
  });
  useEffect(() => {
    if (!reply.data) return undefined;
    const controller = new AbortController();
    store.prune(Date.now() / 1000 - MAX_SPAN);
    store.add(reply.data.lives);
    changed();
    addEarlier(store, reply.data, since.current, controller.signal).then(changed, () => {});
    return () => controller.abort();
  }, [reply.data]);
  return { store, version, oldest: reply.data?.oldest, reply };
}

/** A reply has so many lives at most; those before are got as well. */
async function addEarlier(store, first, since, signal) {
  let reply = first;
  for (let page = 1; page < MAX_PAGES && reply.left_out > 0 && reply.lives.length; page += 1) {
    const before = Math.min(...reply.lives.map(({ id }) => id));
    reply = await getJson('history', { since, before }, { signal });
    store.add(reply.lives);
  }
}
