// The rows of the tree: groups, plugins, instances and tasks as they own each other. Pure.
import { countStates, isTrouble } from './states.js';

/**
 * What the mesh consists of, made of a Node of GetTree: nested `{key, kind, name, policy, after,
 * children, instances}`. `kind` is group, plugin, task or instance; `key` identifies it.
 */
export function buildModel(root) {
  return root.nodes.map((node) => buildNode(node, []));
}

function buildNode(node, groups) {
  const kind = node.kind.toLowerCase();
  const within = kind === 'group' ? [...groups, node.name] : groups;
  const own = { kind, name: node.name, policy: node.policy, after: node.after, groups };
  const instances = node.instances.map((instance) => ({
    ...own, key: `${node.name}/${instance.instance}`, kind: kind === 'task' ? 'task' : 'instance', instance, children: [], total: node.instances.length,
  }));
  // The only instance of a plugin is the plugin's own row.
  if (kind !== 'group' && instances.length === 1) return instances[0];
  return { ...own, key: node.name, children: kind === 'group' ? node.nodes.map((child) => buildNode(child, within)) : instances };
}

/** The node of a key, or of a plugin's name if the plugin is shown as its only instance. */
export function findNode(nodes, key) {
  for (const node of nodes) {
    const found = node.key === key || (node.name === key && node.kind !== 'group') ? node : findNode(node.children, key);
    if (found) return found;
  }
  return null;
}

/** All nodes that own no others. */
export function leavesOf(node) {
  return node.children.length ? node.children.flatMap(leavesOf) : node.instance ? [node] : [];
}

/**
 * The values of a row, as they are shown; of nodes that own others, sums and states of these.
 *
 * `loads` is the Map of model/load.js, `memory` a Map from key to an Instance of ListInstances. The
 * latest statistics are newer than the tree.
 */
export function rowValues(node, loads, memory) {
  const leaves = leavesOf(node).map((leaf) => leafValues(leaf, loads, memory));
  if (node.instance) return leaves[0];
  return {
    states: JSON.stringify(countStates(leaves.map(({ state }) => state))),
    trouble: leaves.some(({ trouble }) => trouble),
    restarts: sum(leaves, 'restarts'),
    inFlight: sum(leaves, 'inFlight'),
    cpu: sum(leaves, 'cpu'),
    resident: sum(leaves, 'resident'),
    proportional: sum(leaves, 'proportional'),
    note: node.kind === 'group' ? node.policy : '',
  };
}

function leafValues(leaf, loads, memory) {
  const load = loads.get(leaf.key);
  const instance = load?.instance ?? leaf.instance;
  const kept = memory.get(leaf.key);
  // What is known of another process does not hold for this one.
  const measured = kept && kept.pid === instance.pid ? kept : null;
  return {
    state: instance.state,
    trouble: isTrouble(instance.state),
    restarts: instance.restarts,
    uptime: instance.uptime,
    inFlight: load?.inFlight,
    cpu: load?.cpu,
    cpuHistory: load?.cpuHistory,
    resident: load?.resident ?? measured?.resident,
    proportional: measured?.proportional,
    note: instance.reason || instance.status,
    failing: Boolean(instance.reason) && isTrouble(instance.state),
  };
}

function sum(leaves, name) {
  const known = leaves.map((leaf) => leaf[name]).filter((value) => value != null);
  return known.length ? known.reduce((total, value) => total + value, 0) : undefined;
}

/**
 * The rows to show, each `{key, node, level, position, size, expanded}`, in order. `expanded` is
 * undefined for one that owns nothing. `matches(leaf)` selects leaves; what owns none is left out.
 */
export function visibleRows(nodes, collapsed, matches) {
  const rows = [];
  const visit = (siblings, level) => {
    const shown = siblings.filter((node) => (node.instance ? matches(node) : leavesOf(node).some(matches)));
    shown.forEach((node, index) => {
      const open = node.children.length ? !collapsed.has(node.key) : undefined;
      rows.push({ key: node.key, node, level, position: index + 1, size: shown.length, expanded: open });
      if (open) visit(node.children, level + 1);
    });
  };
  visit(nodes, 1);
  return rows;
}

/** Keys of what owns others. */
export function ownerKeys(nodes) {
  return nodes.filter((node) => node.children.length).flatMap((node) => [node.key, ...ownerKeys(node.children)]);
}
