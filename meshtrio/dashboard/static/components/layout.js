// What views are made of.
import { html, useEffect, useRef, useState } from '../lib.js';
import { Text } from './text.js';

/** A view's frame: its heading, what it can do beside it, and what it shows. */
export function Page({ title, subtitle, actions, children, wide }) {
  return html`
    <div class=${wide ? 'page page-wide' : 'page'}>
      <div class="page-head">
        <div class="page-title">
          <h1 tabindex="-1">${title}</h1>
          ${subtitle && html`<p class="subtitle">${subtitle}</p>`}
        </div>
        ${actions && html`<div class="page-actions">${actions}</div>`}
      </div>
      ${children}
    </div>`;
}

/** What is shown where there is nothing, with why. */
export function Empty({ title, children }) {
  return html`<div class="empty"><p class="empty-title">${title}</p>${children && html`<p>${children}</p>`}</div>`;
}

/** What has failed, and how to go on. `error` is an ApiError. */
export function ErrorNote({ error, what, onRetry }) {
  return html`
    <div class="note tone-bad" role="alert">
      <p><strong>${what}</strong> <${Text} value=${error.text ?? String(error)} /></p>
      ${onRetry && html`<button type="button" onClick=${onRetry}>Try again</button>`}
    </div>`;
}

/** Shown while the first reply is on its way; only after a moment, so that it does not flash. */
export function Loading({ what = 'Loading' }) {
  const [late, setLate] = useState(false);
  useEffect(() => {
    const timer = setTimeout(() => setLate(true), 300);
    return () => clearTimeout(timer);
  }, []);
  return html`<p class="loading" role="status">${late ? `${what}…` : ''}</p>`;
}

/** What a reply of useApi is shown by: `children` is called with its data. */
export function Reply({ of: { data, error, refresh }, what, children }) {
  if (!data) {
    return error
      ? html`<${ErrorNote} error=${error} what=${`${what} cannot be shown:`} onRetry=${refresh} />`
      : html`<${Loading} />`;
  }
  return html`
    ${error && error.code !== 'NETWORK'
      && html`<${ErrorNote} error=${error} what=${`${what} may be out of date:`} onRetry=${refresh} />`}
    ${children(data)}`;
}

/** Names and values. `facts` are pairs; those with an undefined, null or empty value are left out.
 *  `wide`: one below the other, for long values. */
export function Facts({ facts, wide }) {
  const known = facts.filter(([, value]) => value != null && value !== '');
  return html`
    <dl class=${wide ? 'facts facts-wide' : 'facts'}>
      ${known.map(([name, value]) => html`<div key=${name}><dt>${name}</dt><dd>${value}</dd></div>`)}
    </dl>`;
}

/** A field to search by, named by `label`. "/" focuses it. `onInput` is called with its text. */
export function SearchField({ label, value, onInput }) {
  const field = useRef(null);
  useEffect(() => {
    const focus = (event) => {
      const typing = event.target.closest?.('input, textarea, select, dialog');
      if (event.key !== '/' || typing || event.ctrlKey || event.metaKey || event.altKey) return;
      event.preventDefault();
      field.current.focus();
    };
    addEventListener('keydown', focus);
    return () => removeEventListener('keydown', focus);
  }, []);
  return html`
    <input ref=${field} class="search" type="search" aria-label=${label} placeholder=${label} value=${value}
      aria-keyshortcuts="/" autocomplete="off" spellcheck=${false} onInput=${(event) => onInput(event.target.value)} />`;
}

/** A choice of few: `options` are pairs of value and label. */
export function Segmented({ label, options, value, onChange }) {
  return html`
    <div class="segmented" role="group" aria-label=${label}>
      ${options.map(([each, text]) => html`
        <button type="button" key=${each} aria-pressed=${each === value} onClick=${() => onChange(each)}>${text}</button>`)}
    </div>`;
}

/** A choice of many: `options` are pairs of value and label. */
export function Select({ label, options, value, onChange }) {
  return html`
    <label class="field"><span>${label}</span>
      <select value=${value} onChange=${(event) => onChange(event.target.value)}>
        ${options.map(([each, text]) => html`<option key=${each} value=${each}>${text}</option>`)}
      </select>
    </label>`;
}
