// The timeline as a table: the same data for those who do not see the picture.
import { dateTime, duration, NONE } from '../format.js';
import { html, useMemo, useState } from '../lib.js';
import { followsText, readyAt, stateOf, toneOfLife } from '../model/lives.js';
import { StatusBadge, Text } from './text.js';
import { Table } from './table.js';

const PAGE = 300;

const COLUMNS = [
  { key: 'name', title: 'Instance', sort: (row) => row.name, render: (row) => html`<${Text} value=${row.name} />` },
  { key: 'pid', title: 'PID', numeric: true, sort: (row) => row.life.pid, render: (row) => row.life.pid ?? NONE },
  { key: 'started', title: 'Started', className: 'nowrap', sort: (row) => row.life.started, render: (row) => dateTime(row.life.started) },
  { key: 'follows', title: 'Because of', sort: (row) => followsText(row.life), render: (row) => followsText(row.life) },
  { key: 'ready', title: 'Ready after', numeric: true, sort: (row) => row.ready, render: (row) => duration(row.ready) },
  { key: 'lasted', title: 'Lasted', numeric: true, sort: (row) => row.lasted, render: (row) => duration(Math.round(row.lasted * 10) / 10) },
  {
    key: 'state', title: 'State or end', sort: (row) => row.state,
    render: (row) => html`<${StatusBadge} state=${row.state} tone=${toneOfLife(row.state)} />`,
  },
  { key: 'reason', title: 'How it ended', className: 'wide', render: (row) => html`<${Text} value=${row.life.reason} />` },
  { key: 'then', title: 'Then', sort: (row) => row.life.next_state, render: (row) => html`<${Text} value=${row.life.next_state} />` },
];

export function LifeTable({ rows, from, to, now, selected, onSelect }) {
  const [shown, setShown] = useState(PAGE);
  // What goes on is as old as the minute: it need not be rendered each second.
  const minute = Math.floor(now / 10) * 10;
  const lives = useMemo(() => rows
    .flatMap((row) => row.lives)
    .filter((life) => (life.ended ?? Infinity) >= from && life.started <= to)
    .sort((a, b) => b.started - a.started), [rows, Math.floor(from / 10), Math.floor(to / 10)]);
  const latest = useMemo(() => lives.slice(0, shown).map((life) => toRow(life, minute)), [lives, shown, minute]);
  return html`
    <${Table} caption="Lives of processes" columns=${COLUMNS} rows=${latest} rowKey=${({ life }) => life.id}
      sort=${{ key: 'started', reverse: true }} selectedKey=${selected?.id} onRow=${({ life }) => onSelect(life)} />
    ${lives.length > shown && html`
      <p class="more"><button type="button" onClick=${() => setShown(shown + PAGE)}>Show ${Math.min(PAGE, lives.length - shown)} more</button></p>`}`;
}

function toRow(life, now) {
  const ready = readyAt(life);
  return {
    life,
    name: `${life.plugin}/${life.instance}`,
    ready: ready === null ? undefined : ready - life.started,
    lasted: Math.max((life.ended ?? now) - life.started, 0),
    state: stateOf(life, now),
  };
}
