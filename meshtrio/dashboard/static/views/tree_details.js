// What is known of one instance, plugin, group or task, and what can be done with it.
import { ActionButtons } from '../components/action_dialog.js';
import { EventList } from '../components/event_list.js';
import { Facts } from '../components/layout.js';
import { Sparkline } from '../components/sparkline.js';
import { StatusBadge, Text, ToneMark } from '../components/text.js';
import { useApi } from '../data.js';
import { bytes, count, dateTime, duration, NONE, percent, plural } from '../format.js';
import { html, useEffect, useRef } from '../lib.js';
import { loads } from '../load.js';
import { countStates, toneOf } from '../model/states.js';
import { leavesOf, rowValues } from '../model/tree.js';
import { href } from '../router.js';
import { useStore } from '../store.js';

export function Details({ node, memory, onClose }) {
  const now = useStore(loads);
  const heading = useRef(null);
  useEffect(() => heading.current.focus(), []);
  const values = rowValues(node, now, memory);
  const closeByKey = (event) => {
    if (event.key === 'Escape' && !event.defaultPrevented) onClose();
  };
  return html`
    <aside class="details" aria-labelledby="details-title" onKeyDown=${closeByKey}>
      <div class="details-head">
        <h2 id="details-title" tabindex="-1" ref=${heading}><${Text} value=${node.total > 1 ? node.key : node.name} /></h2>
        ${values.state && html`<${StatusBadge} state=${values.state} />`}
        <button type="button" class="quiet close" aria-label="Close details" onClick=${onClose}>✕</button>
      </div>
      ${node.instance
        ? html`<${InstanceDetails} node=${node} load=${now.get(node.key)} measured=${memory.get(node.key)} />`
        : html`<${OwnerDetails} node=${node} values=${values} now=${now} />`}
    </aside>`;
}

function InstanceDetails({ node, load, measured }) {
  const instance = load?.instance ?? node.instance;
  const isTask = node.kind === 'task';
  const levels = useLogLevels(node, !isTask);
  const started = instance.uptime == null ? null : Date.now() / 1000 - instance.uptime;
  const path = (value) => value && html`<span class="mono"><${Text} value=${value} /></span>`;
  return html`
    ${instance.reason && html`
      <p class=${`reason tone-${toneOf(instance.state)}`}><${ToneMark} tone=${toneOf(instance.state)} /><${Text} value=${instance.reason} /></p>`}
    ${instance.status && html`<p class="reason tone-off"><${Text} value=${instance.status} /></p>`}
    ${!isTask && html`<${Actions} node=${node} states=${[instance.state]} level=${levels.plugin} />`}
    <${Links} name=${node.name} />
    <${Meters} load=${load} measured=${measured} pid=${instance.pid} />
    <${Facts} facts=${[
      ['PID', instance.pid],
      ['Uptime', instance.uptime == null ? null : html`<span title=${dateTime(started)}>${duration(Math.floor(instance.uptime))}</span>`],
      ['Ready after', instance.ready_after == null ? null : duration(instance.ready_after)],
      ['Restarts', count(instance.restarts)],
      ['Started by', instance.start],
      [isTask ? 'Schedule' : 'Restart policy', node.policy],
      ['Depends on', node.after.length ? html`<${Text} value=${node.after.join(', ')} />` : null],
      ['Group', node.groups.length ? html`<${Text} value=${node.groups.join(' / ')} />` : null],
      ['Log level', levels.text],
      ...taskFacts(instance.task),
    ]} />
    ${instance.socket && html`<${Facts} wide facts=${[['Socket', path(instance.socket)]]} />`}
    <${LastExit} node=${node} pid=${instance.pid} />
    <${EventList} name=${node.name} instance=${isTask ? undefined : instance.instance} />`;
}

function taskFacts(task) {
  if (!task) return [];
  return [
    ['Last outcome', task.last_outcome],
    ['Last exit status', task.last_exit_status],
    ['Last signal', task.last_signal],
    ['Last duration', task.last_duration == null ? null : duration(task.last_duration)],
    ['Last ended', task.last_ended == null ? null : dateTime(task.last_ended)],
    ['Last success', task.last_success == null ? null : dateTime(task.last_success)],
    ['Next run', task.next_run == null ? null : dateTime(task.next_run)],
    ['Runs left out', task.missed || null],
  ];
}

/** The log level of a plugin, and of the process of an instance if the process reports one. */
function useLogLevels(node, enabled) {
  const { data } = useApi('log-levels', { names: node.name }, { enabled, every: 10 });
  const plugin = data?.plugins[0];
  const own = plugin?.instances.find((each) => each.instance === node.instance?.instance);
  const parts = [plugin?.level, own?.level && `${own.level} in the process`].filter(Boolean);
  return { plugin: own?.level || plugin?.level, text: parts.join(', ') };
}

/** What can be done in the states that the instances are in. */
function actionsFor(kind, states) {
  const running = states.some((state) => !['stopped', 'failed', 'exited', 'idle'].includes(state));
  const resting = states.some((state) => ['stopped', 'failed', 'exited', 'idle', 'backoff'].includes(state));
  return [
    ...(resting ? ['start'] : []), ...(running ? ['restart'] : []), ...(kind === 'group' ? [] : ['scale']), 'set-log-level',
    ...(running ? ['drain', 'stop'] : []),
  ];
}

function Actions({ node, states, level }) {
  const kind = node.kind === 'group' ? 'group' : 'plugin';
  const target = { kind, name: node.name, instances: node.total ?? states.length, level };
  return html`<${ActionButtons} target=${target} actions=${actionsFor(kind, states)} />`;
}

function Links({ name }) {
  const views = [['timeline', 'Timeline'], ['logs', 'Logs'], ['events', 'Events'], ['tap', 'Live tap']];
  return html`
    <ul class="details-links" aria-label="Other views">
      ${views.map(([view, text]) => html`<li key=${view}><a href=${href(view, { names: name })}>${text}</a></li>`)}
    </ul>`;
}

/** CPU, memory and calls of an instance. */
function Meters({ load, measured, pid }) {
  if (pid == null) return null;
  const calls = load?.load;
  const proportional = measured?.pid === pid ? measured.proportional : undefined;
  return html`
    <div class="meters">
      <div class="meter"><h3>CPU</h3><p>${percent(load?.cpu)}</p><${Sparkline} values=${load?.cpuHistory} max=${0.05} /></div>
      <div class="meter"><h3>Memory</h3><p>${bytes(load?.resident ?? measured?.resident)}</p>
        <p class="muted">${proportional === undefined ? '' : `${bytes(proportional)} PSS`}</p></div>
      ${calls && html`
        <div class="meter"><h3>In flight</h3><p>${count(calls.in_flight)}</p><${Sparkline} values=${load.inFlightHistory} /></div>
        <div class="meter"><h3>Calls</h3><p>${count(calls.started)}</p><p class="muted">${count(calls.failed)} failed</p></div>
        <div class="meter"><h3>Median</h3><p>${calls.median == null ? NONE : duration(calls.median)}</p></div>
        <div class="meter"><h3>p99</h3><p>${calls.p99 == null ? NONE : duration(calls.p99)}</p></div>`}
    </div>`;
}

/** How the instance's last process ended, with what it wrote last. */
function LastExit({ node, pid }) {
  const { data, refresh } = useApi('history', { names: node.name }, { live: true });
  const first = useRef(pid);
  useEffect(() => {
    if (pid !== first.current) refresh();
    first.current = pid;
  }, [pid]);
  const own = data?.lives.filter((life) => life.instance === node.instance.instance && life.ended != null) ?? [];
  const last = own.reduce((latest, life) => (latest && latest.ended > life.ended ? latest : life), null);
  if (!last) return null;
  return html`
    <section class="details-part">
      <h3>Last exit</h3>
      <p><time class="muted">${dateTime(last.ended)}</time> <${Text} value=${last.reason} /></p>
      ${last.last_lines?.length > 0 && html`<pre class="lines" tabindex="0" aria-label="Last lines of stderr"><${Text} value=${last.last_lines.join('\n')} /></pre>`}
    </section>`;
}

/** A plugin with several instances, or a group. */
function OwnerDetails({ node, values, now }) {
  const leaves = leavesOf(node);
  const states = leaves.map((leaf) => now.get(leaf.key)?.instance.state ?? leaf.instance.state);
  const isGroup = node.kind === 'group';
  return html`
    <p class="badges">${countStates(states).map(([state, number]) => html`<${StatusBadge} key=${state} state=${state} number=${number} />`)}</p>
    <${Actions} node=${node} states=${states} />
    <${Links} name=${node.name} />
    <${Facts} facts=${[
      [isGroup ? 'Restart strategy' : 'Restart policy', node.policy],
      ['Consists of', plural(isGroup ? node.children.length : leaves.length, isGroup ? 'member' : 'instance')],
      ['Restarts', count(values.restarts)],
      ['In flight', values.inFlight === undefined ? null : count(values.inFlight)],
      ['CPU', values.cpu === undefined ? null : percent(values.cpu)],
      ['Memory', values.resident === undefined ? null : bytes(values.resident)],
      ['PSS', values.proportional === undefined ? null : bytes(values.proportional)],
      ['Depends on', node.after.length ? html`<${Text} value=${node.after.join(', ')} />` : null],
    ]} />
    <${EventList} name=${node.name} />`;
}
