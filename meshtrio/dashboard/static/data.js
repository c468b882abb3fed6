// Hooks by which views get data.
import { getJson } from './api.js';
import { useCallback, useEffect, useRef, useState } from './lib.js';
import { useStore } from './store.js';
import { stream } from './stream.js';

/** Wants topics of the stream while the component is there: useTopics({events: 100}). */
export function useTopics(topics) {
  const key = JSON.stringify(topics);
  useEffect(() => stream.want(JSON.parse(key)), [key]);
}

/** Calls the handler with each message of a type while the component is there. */
export function useMessages(type, handler) {
  const latest = useRef(handler);
  latest.current = handler;
  useEffect(() => stream.on(type, (data) => latest.current(data)), [type]);
}

/**
 * A reply of the API as `{data, error, refresh}`; both are null until there is one.
 *
 * It is got again whenever the parameters change, and when the page comes back from being hidden or
 * without a mesh. `live`: also whenever the stream is opened, for what its messages are changes of.
 * `every`: also after each so many seconds. An old reply stays while a new one is got.
 */
export function useApi(name, params = {}, { live = false, every = 0, enabled = true } = {}) {
  const [reply, setReply] = useState({ data: null, error: null });
  const [asked, setAsked] = useState(0);
  const turn = useStore(live ? stream.opened : stream.resumed);
  const phase = useStore(stream.status, (status) => status.phase);
  const key = JSON.stringify(params);
  useEffect(() => {
    if (!enabled) return undefined;
    const controller = new AbortController();
    getJson(name, JSON.parse(key), { signal: controller.signal }).then(
      (data) => setReply({ data, error: null }),
      (error) => {
        if (error.name !== 'AbortError') setReply((before) => ({ data: before.data, error }));
      },
    );
    return () => controller.abort();
  }, [name, key, turn, asked, enabled]);
  const refresh = useCallback(() => setAsked((before) => before + 1), []);
  useEffect(() => {
    if (!every || !enabled || phase !== 'live') return undefined;
    const timer = setInterval(refresh, every * 1000);
    return () => clearInterval(timer);
  }, [every, enabled, phase]);
  return { ...reply, refresh };
}

/** The current Unix time in seconds, renewed after each so many seconds while the page is visible. */
export function useNow(every = 1) {
  const [now, setNow] = useState(Date.now() / 1000);
  useEffect(() => {
    const update = () => document.hidden || setNow(Date.now() / 1000);
    const timer = setInterval(update, every * 1000);
    document.addEventListener('visibilitychange', update);
    return () => {
      clearInterval(timer);
      document.removeEventListener('visibilitychange', update);
    };
  }, [every]);
  return now;
}
