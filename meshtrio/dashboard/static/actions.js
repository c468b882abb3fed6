// What viewers can have the mesh do, if its config has control = true.
import { plural } from './format.js';
import { mesh } from './session.js';
import { Store, useStore } from './store.js';

/** Whether the mesh lets viewers act. */
export const useControl = () => useStore(mesh, (now) => Boolean(now?.control));

/** The action that is to be confirmed, `{action, target}`, or null. */
export const pendingAction = new Store(null);

/** Messages about what was done, `{id, tone, text}`, the latest last. */
export const reports = new Store([]);

/**
 * Asks the user whether to do it. `target`: `{kind, name, instances, level}`, with kind `plugin`,
 * `group` or `mesh`; `instances` is their number, `level` the current log level.
 */
export function requestAction(action, target) {
  pendingAction.set({ action, target });
}

let lastReport = 0;

export function addReport(tone, text) {
  lastReport += 1;
  const report = { id: lastReport, tone, text };
  reports.set([...reports.value.slice(-3), report]);
  setTimeout(() => dismissReport(report.id), tone === 'bad' ? 30_000 : 8_000);
}

export function dismissReport(id) {
  reports.set(reports.value.filter((report) => report.id !== id));
}

const what = ({ kind, name, instances }) => {
  if (kind === 'mesh') return name;
  return `${kind} ${name}${instances === undefined ? '' : ` (${plural(instances, 'instance')})`}`;
};

const byName = ({ name }) => ({ name });

/**
 * By action: `label` of its button, `done` as its report says it, `text` of what it does, `danger` if
 * it interrupts service, `field` to fill in, and `body`, the request made of target and field.
 */
export const ACTIONS = {
  start: {
    label: 'Start', done: 'Started', body: byName,
    text: (target) => `Starts ${what(target)}, and waits until all of it is ready.`,
  },
  restart: {
    label: 'Restart', done: 'Restarted', body: byName,
    text: (target) => `Renews ${what(target)} one instance at a time. Each successor is ready before the running one is `
      + 'stopped; if a successor does not get ready, the running one stays.',
  },
  drain: {
    label: 'Drain', done: 'Drained', danger: true, body: byName,
    text: (target) => `Stops ${what(target)} and reports of each instance how it ended: it accepts no new calls, and has its `
      + 'stop timeout for those in flight. It stays stopped until it is started.',
  },
  stop: {
    label: 'Stop', done: 'Stopped', danger: true, body: byName,
    text: (target) => `Stops ${what(target)}. Calls to it fail or wait until it is started again.`,
  },
  scale: {
    label: 'Scale', done: 'Scaled',
    text: (target) => `Sets the number of instances of ${target.kind} ${target.name}, now ${target.instances}, until the config is reloaded.`,
    field: { name: 'instances', label: 'Instances', type: 'number', min: 1, first: (target) => String(target.instances) },
    body: ({ name }, value) => ({ name, instances: Number(value) }),
  },
  'set-log-level': {
    label: 'Log level', done: 'Log level set for',
    text: (target) => `Sets the log level of ${what(target)} until the config is reloaded.`,
    field: {
      name: 'level', label: 'Level', type: 'select', options: ['debug', 'info', 'warning', 'error'],
      first: (target) => target.level || 'info',
    },
    body: ({ name }, value) => ({ name, level: value }),
  },
  reload: {
    label: 'Reload config', done: 'Config reloaded:',
    text: () => 'Reads the config file again and applies what has changed: plugins are added, drained, renewed or scaled as it '
      + 'says. If the file has a mistake, nothing is done.',
    body: () => ({}),
  },
};

/** What a reply says beyond that it was done, as one line; empty if it says nothing more. */
export function describeReply(action, reply) {
  if (action === 'reload') {
    const parts = ['added', 'removed', 'restarted', 'scaled', 'adjusted']
      .filter((part) => reply[part]?.length).map((part) => `${part} ${reply[part].join(', ')}`);
    return parts.join('; ') || 'nothing has changed';
  }
  if (action !== 'drain') return '';
  return (reply.instances ?? []).filter(({ ended }) => ended).map(describeDrained).join('; ');
}

function describeDrained({ plugin, instance, ended, forced, cut_calls: cut = [] }) {
  const calls = cut.length ? `, ${plural(cut.length, 'call')} cut off` : '';
  return `${plugin}/${instance} ${ended}${forced ? ' (forced)' : ''}${calls}`;
}
