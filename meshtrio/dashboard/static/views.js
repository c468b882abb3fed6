// The views, in the order of the navigation. Each is a module of views/ with a default export, the
// component, that is loaded when it is first shown.

/** `only`: fields of the `mesh` message that have to be true for it to be offered. */
export const VIEWS = [
  { name: 'tree', title: 'Tree', group: 'Processes', load: () => import('./views/tree.js') },
  { name: 'timeline', title: 'Timeline', group: 'Processes', load: () => import('./views/timeline.js') },
  { name: 'events', title: 'Events', group: 'Processes', load: () => import('./views/events.js') },
  { name: 'logs', title: 'Logs', group: 'Processes', load: () => import('./views/logs.js') },
  { name: 'calls', title: 'Calls', group: 'Traffic', load: () => import('./views/calls.js') },
  { name: 'tap', title: 'Live tap', group: 'Traffic', load: () => import('./views/tap.js') },
  { name: 'services', title: 'Services', group: 'Traffic', load: () => import('./views/services.js') },
  { name: 'nodes', title: 'Nodes', group: 'Mesh', only: 'nodes', load: () => import('./views/nodes.js') },
  { name: 'config', title: 'Config', group: 'Mesh', load: () => import('./views/config.js') },
];
