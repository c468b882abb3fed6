// The last events of a plugin, group or instance.
import { useApi, useMessages, useTopics } from '../data.js';
import { dateTime, timeOrDate } from '../format.js';
import { html, useEffect, useMemo, useState } from '../lib.js';
import { toneOfLevel } from '../model/states.js';
import { Text, ToneMark } from './text.js';

const SHOWN = 12;

/** Events of `name`; of one instance only if `instance` is set. */
export function EventList({ name, instance }) {
  const { data } = useApi('events', { names: name, last: 50 }, { live: true });
  const [added, setAdded] = useState([]);
  // Events are of plugins: those that a group's past ones are of are its members as far as they are known.
  const members = useMemo(() => new Set([name, ...(data?.events ?? []).map(({ plugin }) => plugin)]), [data, name]);
  useEffect(() => setAdded([]), [data]);
  useTopics({ events: 1 });
  useMessages('event', (event) => setAdded((before) => [...before.slice(-SHOWN), event]));
  const known = new Map([...(data?.events ?? []), ...added].map((event) => [event.sequence, event]));
  const events = [...known.values()]
    .filter((event) => members.has(event.plugin) && (instance === undefined || event.instance === instance))
    .slice(-SHOWN).reverse();
  if (!data) return null;
  const today = Date.now() / 1000;
  return html`
    <section class="details-part">
      <h3>Last events</h3>
      ${events.length === 0 && html`<p class="muted">None are kept.</p>`}
      <ul class="event-list">
        ${events.map((event) => html`
          <li key=${event.sequence}>
            <time title=${dateTime(event.time, 3)}>${timeOrDate(event.time, today)}</time>
            <${ToneMark} tone=${toneOfLevel(event.level)} />
            <span>${instance === undefined ? html`<span class="muted"><${Text} value=${`${event.plugin}/${event.instance} `} /></span>` : ''}<${Text} value=${event.text} /></span>
          </li>`)}
      </ul>
    </section>`;
}
