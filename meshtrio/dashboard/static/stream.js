// The one stream of live data that the page has.
//
// A browser has few connections to one host, so views share one EventSource. Each view declares the
// topics that it wants; the stream is opened again if what is wanted changes. It is closed while the
// page is hidden, so that a forgotten tab costs the mesh nothing.
import { getJson } from './api.js';
import { Store } from './store.js';

const FIRST_RETRY = 500; // Milliseconds; doubled for each attempt in a row.
const MAX_RETRY = 15_000;

const MESSAGES = [
  'mesh', 'statistics', 'calls', 'event', 'history', 'services', 'nodes', 'log', 'call', 'lost', 'problem',
];

/** The query of what all views want together: numbers by their maximum, else the latest. */
export function mergeTopics(wants) {
  const merged = {};
  for (const topics of wants) {
    for (const [name, value] of Object.entries(topics)) {
      if (value === '' || value == null) continue;
      const both = typeof value === 'number' && typeof merged[name] === 'number';
      merged[name] = both ? Math.max(merged[name], value) : value;
    }
  }
  return new URLSearchParams(Object.entries(merged).sort()).toString();
}

export class Stream {
  /**
   * Where it stands, as `{phase, retryAt, text}`. Phases: `connecting`, `live`, `hidden`, `away` (the
   * mesh cannot be reached; tried again at `retryAt`, in milliseconds), `expired` (the session is not
   * accepted; not tried again).
   */
  status = new Store({ phase: 'connecting' });
  /** Number of times that it was opened, a change of topics included. */
  opened = new Store(0);
  /** Number of times that it was opened after it had been away or hidden: what is shown may be old. */
  resumed = new Store(0);

  #wants = new Set();
  #handlers = new Map();
  #source = null;
  #query = null;
  #retries = 0;
  #timer = null;
  #interrupted = false;

  constructor({ openSource = (url) => new EventSource(url), probe = () => getJson('execution') } = {}) {
    this.openSource = openSource;
    this.probe = probe;
  }

  /** Opens the stream, and keeps it open while the page is visible. */
  start() {
    document.addEventListener('visibilitychange', () => this.setVisible(!document.hidden));
    // A page that the browser keeps for "back" must not hold a connection.
    addEventListener('pagehide', () => this.setVisible(false));
    addEventListener('pageshow', () => this.setVisible(!document.hidden));
    this.setVisible(!document.hidden);
  }

  setVisible(visible) {
    if (visible === (this.#source !== null)) return;
    if (visible) {
      if (this.status.value.phase !== 'expired') this.#open();
      return;
    }
    this.#close();
    if (this.status.value.phase === 'expired') return;
    this.#interrupted ||= this.opened.value > 0;
    this.status.set({ phase: 'hidden' });
  }

  /** Adds topics to what is wanted, as in the query of /api/stream. Returns a function that ends this. */
  want(topics) {
    this.#wants.add(topics);
    this.#wantsChanged();
    return () => {
      this.#wants.delete(topics);
      this.#wantsChanged();
    };
  }

  /** Calls the handler with the data of each message of a type. Returns a function that ends this. */
  on(type, handler) {
    const handlers = this.#handlers.get(type) ?? this.#handlers.set(type, new Set()).get(type);
    handlers.add(handler);
    return () => handlers.delete(handler);
  }

  /** Connects without waiting for the next attempt. */
  retryNow() {
    this.#retries = 0;
    this.#open();
  }

  #wantsChanged() {
    // A view that replaces another one ends its wants first: looked at once both are done.
    queueMicrotask(() => setTimeout(() => {
      if (this.#source && mergeTopics(this.#wants) !== this.#query) this.#open();
    }));
  }

  #open() {
    this.#close();
    this.#query = mergeTopics(this.#wants);
    if (this.status.value.phase !== 'live') this.status.set({ ...this.status.value, phase: 'connecting' });
    const source = this.openSource(`/api/stream?${this.#query}`);
    this.#source = source;
    for (const type of MESSAGES) {
      source.addEventListener(type, (message) => {
        if (source === this.#source) this.#receive(type, message.data);
      });
    }
    source.onerror = () => {
      if (source === this.#source) this.#failed();
    };
  }

  #close() {
    clearTimeout(this.#timer);
    this.#source?.close();
    this.#source = null;
  }

  #receive(type, text) {
    const data = JSON.parse(text);
    if (type === 'mesh') {
      this.#retries = 0;
      this.status.set({ phase: 'live' });
    }
    for (const handler of [...(this.#handlers.get(type) ?? [])]) {
      try {
        handler(data);
      } catch (error) {
        console.error(error); // Of one view; the others get their messages.
      }
    }
    if (type === 'mesh') {
      this.opened.set(this.opened.value + 1);
      if (this.#interrupted) this.resumed.set(this.resumed.value + 1);
      this.#interrupted = false;
    }
  }

  async #failed() {
    // EventSource tells nothing about why. An ordinary request does.
    const source = this.#source;
    source.close();
    this.#interrupted ||= this.opened.value > 0;
    const delay = Math.min(FIRST_RETRY * 2 ** this.#retries, MAX_RETRY) * (0.75 + Math.random() / 2);
    this.#retries += 1;
    let text = '';
    try {
      await this.probe();
    } catch (error) {
      if (source !== this.#source) return;
      if (error.status === 401 || error.status === 403) {
        this.#close();
        this.status.set({ phase: 'expired', text: error.text });
        return;
      }
      // That it cannot be reached is said anyway.
      text = error.code === 'NETWORK' ? '' : error.text ?? String(error);
    }
    if (source !== this.#source) return; // Hidden, or opened again by the user, meanwhile.
    this.status.set({ phase: 'away', retryAt: Date.now() + delay, text });
    this.#timer = setTimeout(() => this.#open(), delay);
  }
}

/** The page's stream. */
export const stream = new Stream();
