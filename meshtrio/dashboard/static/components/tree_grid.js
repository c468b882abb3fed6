// The tree as an ARIA treegrid: rows take the focus one at a time, arrow keys move, open and close.
import { age, bytes, count, percent } from '../format.js';
import { html, memo, useRef, useState } from '../lib.js';
import { rowValues } from '../model/tree.js';
import { Sparkline } from './sparkline.js';
import { plain, StatusBadge, Text } from './text.js';

const COLUMNS = [
  ['name', 'Name'], ['state', 'State'], ['restarts', 'Restarts'], ['calls', 'In flight'], ['cpu', 'CPU'],
  ['memory', 'Memory'], ['shared', 'PSS'], ['uptime', 'Uptime'], ['note', 'Reason or status'],
];

export function TreeGrid({ rows, loads, memory, selected, onToggle, onOpen }) {
  const [focused, setFocused] = useState(null);
  // Handlers that do not change, so that they do not render every row again.
  const latest = useRef({});
  latest.current = { rows, onToggle, onOpen, setFocused };
  const handlers = useRef(makeHandlers(latest)).current;
  const tabStop = [focused, selected, rows[0]?.key].find((key) => rows.some((row) => row.key === key));
  return html`
    <div class="tree" role="treegrid" aria-label="Groups, plugins and instances" aria-readonly="true"
      onKeyDown=${handlers.keyDown} onClick=${handlers.click} onFocusIn=${handlers.focusIn}>
      <div role="rowgroup">
        <div class="tree-head" role="row">${COLUMNS.map(([name, title]) => html`
          <span key=${name} role="columnheader" class=${`cell-${name}`}>${title}</span>`)}</div>
      </div>
      <div role="rowgroup">
        ${rows.map(({ key, node, ...row }) => html`
          <${Row} key=${key} id=${key} kind=${node.kind} label=${labelOf(node, row.level)} ...${row} ...${shown(rowValues(node, loads, memory))}
            selected=${key === selected} tabStop=${key === tabStop} />`)}
      </div>
    </div>`;
}

// The plugin's name is in the row above where it has several instances.
function labelOf({ kind, key, name, total }) {
  return kind === 'instance' && total > 1 ? key : name;
}

/** Values as texts, so that a row is rendered again only if what it shows has changed. */
function shown({ restarts, inFlight, cpu, resident, proportional, uptime, ...rest }) {
  return {
    ...rest,
    restarts: restarts ? count(restarts) : '',
    inFlight: orNothing(count, inFlight),
    cpu: orNothing(percent, cpu),
    resident: orNothing(bytes, resident),
    proportional: orNothing(bytes, proportional),
    uptime: orNothing(age, uptime),
  };
}

// Most rows lack something: dashes would be most of what is seen.
const orNothing = (format, value) => (value == null ? '' : format(value));

const Row = memo((row) => html`
  <div class=${`tree-row kind-${row.kind}${row.selected ? ' selected' : ''}`} role="row" id=${`row-${row.id}`} style=${{ '--level': row.level }} data-key=${row.id}
    aria-level=${row.level} aria-posinset=${row.position} aria-setsize=${row.size} aria-expanded=${row.expanded}
    aria-selected=${row.selected} tabindex=${row.tabStop ? 0 : -1}>
    <span role="gridcell" class="cell-name">
      <span class=${row.expanded === undefined ? 'twist' : 'twist can'} aria-hidden="true">${row.expanded === undefined ? '' : row.expanded ? '▾' : '▸'}</span>
      <span class="row-name"><${Text} value=${row.label} /></span>
      ${row.kind === 'group' || row.kind === 'task' ? html`<span class="kind">${row.kind}</span>` : ''}
    </span>
    <span role="gridcell" class="cell-state">${row.states ? html`<${States} states=${row.states} />` : html`<${StatusBadge} state=${row.state} />`}</span>
    <span role="gridcell" class="cell-restarts" data-label="Restarts">${row.restarts}</span>
    <span role="gridcell" class="cell-calls" data-label="In flight">${row.inFlight}</span>
    <span role="gridcell" class="cell-cpu" data-label="CPU">${row.cpu && html`<${Sparkline} values=${row.cpuHistory} max=${0.05} /><span>${row.cpu}</span>`}</span>
    <span role="gridcell" class="cell-memory" data-label="Memory">${row.resident}</span>
    <span role="gridcell" class="cell-shared" data-label="PSS">${row.proportional}</span>
    <span role="gridcell" class="cell-uptime" data-label="Uptime">${row.uptime}</span>
    <span role="gridcell" class=${row.failing ? 'cell-note failing' : 'cell-note'} title=${row.note ? plain(row.note) : undefined}><${Text} value=${row.note} /></span>
  </div>`);

const States = memo(({ states }) => JSON.parse(states).map(([state, number]) => html`
  <${StatusBadge} key=${state} state=${state} number=${number} />`));

function makeHandlers(latest) {
  const rowOf = (event) => event.target.closest('[data-key]');
  const focus = (row) => row && document.getElementById(`row-${row.key}`)?.focus();
  return {
    focusIn(event) {
      const row = rowOf(event);
      if (row) latest.current.setFocused(row.dataset.key);
    },
    click(event) {
      const row = rowOf(event);
      if (!row) return;
      if (event.target.closest('.twist.can')) latest.current.onToggle(row.dataset.key);
      else if (!String(getSelection())) latest.current.onOpen(row.dataset.key);
    },
    keyDown(event) {
      const { rows, onToggle, onOpen } = latest.current;
      const index = rows.findIndex(({ key }) => key === rowOf(event)?.dataset.key);
      if (index < 0 || event.ctrlKey || event.metaKey || event.altKey) return;
      const row = rows[index];
      const parent = () => rows.slice(0, index).findLast(({ level }) => level < row.level);
      const moves = {
        ArrowDown: () => focus(rows[index + 1]),
        ArrowUp: () => focus(rows[index - 1]),
        Home: () => focus(rows[0]),
        End: () => focus(rows.at(-1)),
        ArrowRight: () => (row.expanded === false ? onToggle(row.key) : row.expanded && focus(rows[index + 1])),
        ArrowLeft: () => (row.expanded ? onToggle(row.key) : focus(parent())),
        Enter: () => onOpen(row.key),
        ' ': () => onOpen(row.key),
      };
      if (!moves[event.key]) return;
      event.preventDefault();
      moves[event.key]();
    },
  };
}
