// Filters that several views have.
import { html, useEffect, useState } from '../lib.js';
import { statistics } from '../load.js';
import { useStore } from '../store.js';
import { escapeText } from '../escape.js';
import { Select } from './layout.js';

/** A choice of a plugin or group, or all; `value` may be one that is not known, or several with commas between. */
export function NameFilter({ value, onChange }) {
  const names = useStore(statistics, (now) => now && JSON.stringify([now.plugins, now.groups].map((all) => all.map(({ name }) => name))));
  const [plugins, groups] = names ? JSON.parse(names) : [[], []];
  const known = ['', ...plugins, ...groups];
  const options = [
    ['', 'All'],
    ...(known.includes(value) ? [] : [[value, escapeText(value, { oneLine: true })]]),
    ...plugins.map((name) => [name, escapeText(name, { oneLine: true })]),
    ...groups.map((name) => [name, `${escapeText(name, { oneLine: true })} (group)`]),
  ];
  return html`<${Select} label="Plugin" options=${options} value=${value} onChange=${onChange} />`;
}

/** A text that is used once typing pauses, since each change opens the stream again. */
export function SettledField({ label, value, onChange, invalid, placeholder, inputMode }) {
  const [text, setText] = useState(value);
  useEffect(() => setText(value), [value]);
  useEffect(() => {
    if (text === value) return undefined;
    const timer = setTimeout(() => onChange(text), 500);
    return () => clearTimeout(timer);
  }, [text, value]);
  return html`
    <label class="field"><span>${label}</span>
      <input class="settled" type="text" value=${text} placeholder=${placeholder} inputmode=${inputMode} autocomplete="off" spellcheck=${false}
        aria-invalid=${invalid?.(text) ? 'true' : undefined} onInput=${(event) => setText(event.target.value)}
        onChange=${() => text !== value && onChange(text)} />
    </label>`;
}

/** The choice of a box that is ticked. */
export function Check({ label, checked, onChange }) {
  return html`
    <label class="tick"><input type="checkbox" checked=${checked} onChange=${(event) => onChange(event.target.checked)} />${label}</label>`;
}
