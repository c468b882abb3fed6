// The libraries as the rest of the dashboard uses them, so that a path of vendor/ is in one place.
import { Component, createElement, options } from './vendor/preact.js';
import htm from './vendor/htm.js';

export { Fragment, render } from './vendor/preact.js';
export {
  useCallback, useEffect, useId, useLayoutEffect, useMemo, useRef, useState,
} from './vendor/preact-hooks.js';

/** Tagged template that makes elements: html`<p class="note">${text}</p>`. Values are text, never markup. */
export const html = htm.bind(createElement);

// What many messages change within one frame is rendered once. A hidden page has no frames.
options.debounceRendering = (run) => {
  if (document.hidden) setTimeout(run, 50);
  else requestAnimationFrame(run);
};

/** A component that is rendered again only if one of its props has changed, by Object.is. */
export function memo(component) {
  return class Memo extends Component {
    shouldComponentUpdate(next) {
      return !sameFields(this.props, next);
    }

    render(props) {
      return createElement(component, props);
    }
  };
}

/** Whether two flat objects have the same fields with the same values. */
export function sameFields(a, b) {
  const names = Object.keys(a);
  return names.length === Object.keys(b).length && names.every((name) => Object.is(a[name], b[name]));
}

/** Catches what a view throws while it renders, so that the rest of the page goes on. */
export class ErrorBoundary extends Component {
  constructor() {
    super();
    this.state = { error: null };
  }

  static getDerivedStateFromError(error) {
    return { error };
  }

  componentDidUpdate(previous) {
    if (this.state.error && previous.resetKey !== this.props.resetKey) this.setState({ error: null });
  }

  render({ children, fallback }, { error }) {
    return error ? fallback(error) : children;
  }
}
