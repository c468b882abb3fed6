// Messages of the stream as rows that a view shows, with pause.
import { useMessages, useTopics } from './data.js';
import { useCallback, useEffect, useLayoutEffect, useRef, useState } from './lib.js';
import { Feed, Replay } from './model/feed.js';
import { restarts } from './session.js';

const MIN_INTERVAL = 100; // Milliseconds between two renderings.
const MAX_INTERVAL = 1000;
const MAX_SHARE = 0.2; // Of the time for rendering, however fast rows come.

/** What is missing, by why, as `addMissed` has it. */
const MISSED = {
  lost: 'more than could be sent or shown', // By the plugin's limit, the mesh, or the connection.
  gap: 'there may be others before this that are not shown',
  restarted: 'the mesh was restarted',
};

/**
 * A feed of the messages of a type.
 *
 * `topics` are wanted of the stream; if they change, the feed begins anew. `read(message, feed)` adds rows to the
 * feed; how many the message says are missing before it is added already. `past` is the number of past messages that the topics ask for; `source(message)` and `order(message)` tell
 * which of them are known when the stream is opened again.
 *
 * Returns `{feed, problem, pause, resume, clear}`; `problem` is why the mesh does not send any, null if it does. The component is rendered for new rows at most each 100 ms, less
 * often if that takes long.
 */
export function useFeed({ type, topics, past = 0, source, order, read, limit, weigh }) {
  const feed = useRef(null);
  feed.current ??= new Feed({ limit, weigh });
  const replay = useRef(null);
  replay.current ??= new Replay();
  const render = useRenderSoon();
  const key = JSON.stringify(topics);
  const opened = useRef({ key, restarts: restarts.value });
  const [problem, setProblem] = useState(null);

  useTopics(topics);
  // The first message of each opening.
  useMessages('mesh', () => {
    const before = opened.current;
    opened.current = { key, restarts: restarts.value };
    if (before.key !== key) {
      feed.current.clear();
      replay.current.clear();
    }
    if (before.restarts !== restarts.value) {
      replay.current.clear();
      if (feed.current.last) feed.current.addMissed(0, MISSED.restarted);
    }
    replay.current.begin(past);
    setProblem(null);
    render();
  });
  useMessages(type, (message) => {
    const found = past ? replay.current.check(source(message), order(message)) : 'new';
    if (found === 'known') return;
    if (found === 'gap') feed.current.addMissed(0, MISSED.gap);
    if (message.missed) feed.current.addMissed(message.missed, MISSED.lost);
    read(message, feed.current);
    render();
  });
  useMessages('lost', ({ stream, missed }) => {
    if (stream !== type) return;
    feed.current.addMissed(missed, MISSED.lost);
    render();
  });
  useMessages('problem', (told) => told.stream === type && setProblem(told));

  const change = (action) => useCallback(() => {
    feed.current[action]();
    render();
  }, []);
  return { feed: feed.current, problem, pause: change('pause'), resume: change('resume'), clear: change('clear') };
}

/** A function that has the component rendered soon: many calls, one rendering. */
function useRenderSoon() {
  const [, setTurn] = useState(0);
  const state = useRef({ timer: null, last: 0, started: null, interval: MIN_INTERVAL }).current;
  // Runs after the component is rendered, for whatever reason.
  useLayoutEffect(() => {
    if (state.started === null) return;
    state.last = performance.now();
    state.interval = Math.min(Math.max((state.last - state.started) / MAX_SHARE, MIN_INTERVAL), MAX_INTERVAL);
    state.started = null;
  });
  useEffect(() => () => clearTimeout(state.timer), []);
  return useCallback(() => {
    if (state.timer !== null) return;
    const wait = Math.max(0, state.last + state.interval - performance.now());
    state.timer = setTimeout(() => {
      state.timer = null;
      requestAnimationFrame(() => {
        state.started = performance.now();
        setTurn((before) => before + 1);
      });
    }, wait);
  }, []);
}
