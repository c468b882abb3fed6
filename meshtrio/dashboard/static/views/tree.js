// The nursery tree: what the mesh runs, and how it is.
import { requestAction, useControl } from '../actions.js';
import { Empty, Page, Reply, SearchField, Segmented } from '../components/layout.js';
import { TreeGrid } from '../components/tree_grid.js';
import { useApi, useMessages, useTopics } from '../data.js';
import { plural } from '../format.js';
import { html, useEffect, useMemo, useRef, useState } from '../lib.js';
import { loads } from '../load.js';
import { isTrouble } from '../model/states.js';
import { buildModel, findNode, leavesOf, ownerKeys, visibleRows } from '../model/tree.js';
import { navigate, setParams } from '../router.js';
import { mesh } from '../session.js';
import { useStore } from '../store.js';
import { Details } from './tree_details.js';

const REFRESH = 30; // Seconds; the states come from the stream, and what it lacks changes rarely.

export default function Tree({ params }) {
  const tree = useApi('tree', {}, { every: REFRESH });
  const meshName = useStore(mesh, (now) => now?.name);
  useTreeRefresh(tree);
  return html`
    <${Page} title="Tree" wide subtitle=${meshName && 'Groups, plugins and instances as they own each other'}
      actions=${html`<${ReloadButton} />`}>
      <${Reply} of=${tree} what="The tree">${(data) => html`<${LoadedTree} data=${data} params=${params} />`}<//>
    <//>`;
}

/** Gets the tree again if what it consists of has changed; states of tasks come with it. */
function useTreeRefresh({ data, refresh }) {
  const running = useStore(loads, (now) => [...now.keys()].join('\n'));
  const tasks = useMemo(() => new Set(data?.nodes.filter(({ kind }) => kind === 'TASK').map(({ name }) => name)), [data]);
  const timer = useRef(null);
  const first = useRef('');
  useEffect(() => {
    if (first.current && running !== first.current) refresh();
    first.current = running;
  }, [running]);
  useTopics({ events: 1 });
  useMessages('event', ({ plugin }) => {
    if (!tasks.has(plugin) || timer.current) return;
    timer.current = setTimeout(() => {
      timer.current = null;
      refresh();
    }, 500);
  });
  useEffect(() => () => clearTimeout(timer.current), []);
}

function ReloadButton() {
  const name = useStore(mesh, (now) => now?.name);
  return useControl() && html`
    <button type="button" aria-haspopup="dialog" onClick=${() => requestAction('reload', { kind: 'mesh', name })}>Reload config</button>`;
}

function LoadedTree({ data, params }) {
  const nodes = useMemo(() => buildModel(data), [data]);
  const [collapsed, setCollapsed] = useState(() => new Set());
  const now = useStore(loads);
  const memory = useMemory();
  const { q = '', state = '', select } = params;
  const rows = visibleRows(nodes, collapsed, (leaf) => matches(leaf, q.toLowerCase(), state, now));
  const selected = select ? findNode(nodes, select) : null;
  const opener = useRef(null);

  const toggle = (key) => setCollapsed((before) => {
    const after = new Set(before);
    if (!after.delete(key)) after.add(key);
    return after;
  });
  const open = (key) => {
    opener.current = key;
    setParams({ select: key });
  };
  const close = () => {
    setParams({ select: null });
    document.getElementById(`row-${opener.current ?? selected?.key}`)?.focus();
  };
  return html`
    <${Toolbar} nodes=${nodes} q=${q} state=${state} collapsed=${collapsed} setCollapsed=${setCollapsed} />
    <div class=${selected ? 'tree-layout has-details' : 'tree-layout'}>
      ${rows.length
        ? html`<${TreeGrid} rows=${rows} loads=${now} memory=${memory} selected=${selected?.key} onToggle=${toggle} onOpen=${open} />`
        : html`<${Nothing} nodes=${nodes} />`}
      ${selected && html`<${Details} key=${selected.key} node=${selected} memory=${memory} onClose=${close} />`}
    </div>`;
}

/** What ListInstances alone has, from key to Instance: shared memory takes the mesh a while to read. */
function useMemory() {
  const { data } = useApi('instances', {}, { every: REFRESH });
  return useMemo(() => new Map(data?.instances.map((each) => [`${each.name}/${each.instance}`, each])), [data]);
}

function matches(leaf, text, state, now) {
  const current = now.get(leaf.key)?.instance.state ?? leaf.instance.state;
  if (state === 'trouble' ? !isTrouble(current) : state && state !== current) return false;
  return !text || [leaf.key, ...leaf.groups].some((name) => name.toLowerCase().includes(text));
}

function Toolbar({ nodes, q, state, collapsed, setCollapsed }) {
  const owners = ownerKeys(nodes);
  const states = [['', 'All'], ['trouble', 'In trouble']];
  if (state && state !== 'trouble') states.push([state, state]);
  return html`
    <div class="toolbar">
      <${SearchField} label="Filter by name" value=${q} onInput=${(value) => setParams({ q: value })} />
      <${Segmented} label="States" options=${states} value=${state} onChange=${(value) => setParams({ state: value })} />
      ${owners.length > 0 && html`
        <button type="button" class="quiet" onClick=${() => setCollapsed(new Set(collapsed.size ? [] : owners))}>
          ${collapsed.size ? 'Expand all' : 'Collapse all'}</button>`}
    </div>`;
}

function Nothing({ nodes }) {
  const total = nodes.flatMap(leavesOf).length;
  if (!total) return html`<${Empty} title="No plugins">The config of this mesh has no plugins and no tasks.<//>`;
  return html`
    <${Empty} title="Nothing matches">None of ${plural(total, 'instance')} matches the filter.
      ${' '}<button type="button" class="link" onClick=${() => navigate('tree')}>Show all</button><//>`;
}
