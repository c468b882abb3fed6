// A value that components follow.
import { useEffect, useRef, useState } from './lib.js';

export class Store {
  #value;
  #listeners = new Set();

  constructor(value) {
    this.#value = value;
  }

  get value() {
    return this.#value;
  }

  /** Sets the value, and calls the listeners if it is another one. */
  set(value) {
    if (Object.is(value, this.#value)) return;
    this.#value = value;
    for (const listener of [...this.#listeners]) listener(value);
  }

  /** Calls the listener after each change. Returns a function that ends this. */
  subscribe(listener) {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }
}

const identity = (value) => value;

/** The store's value, or what `select` makes of it; the component is rendered again if that changes. */
export function useStore(store, select = identity) {
  const selected = select(store.value);
  const [, setSelected] = useState(selected);
  const latest = useRef(select);
  latest.current = select;
  useEffect(() => {
    const update = () => setSelected(() => latest.current(store.value));
    update(); // It may have changed between rendering and here.
    return store.subscribe(update);
  }, [store]);
  return selected;
}
