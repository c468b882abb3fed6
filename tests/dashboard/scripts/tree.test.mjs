import assert from 'node:assert/strict';
import { test } from 'node:test';
import { LoadHistory } from '../static/model/load.js';
import { countStates, isTrouble, toneOf, toneOfEvent } from '../static/model/states.js';
import { buildModel, findNode, leavesOf, ownerKeys, rowValues, visibleRows } from '../static/model/tree.js';

const instance = (name, number, fields = {}) => ({ name, instance: number, pid: 100 + number, state: 'ready', restarts: 1, uptime: 5, reason: '', status: '', ...fields });
const node = (kind, name, fields = {}) => ({ kind, name, policy: 'always', after: [], nodes: [], instances: [], ...fields });

const ROOT = node('MESH', '/run/mesh.sock', {
  nodes: [
    node('GROUP', 'web', { nodes: [node('PLUGIN', 'echo', { instances: [instance('echo', 0), instance('echo', 1, { state: 'failed', reason: 'gave up' })] })] }),
    node('PLUGIN', 'solo', { instances: [instance('solo', 0)] }),
    node('PLUGIN', 'none'),
    node('TASK', 'backup', { instances: [instance('backup', 0, { state: 'scheduled', pid: undefined })] }),
  ],
});
const all = () => true;

test('what has one instance is one row', () => {
  const nodes = buildModel(ROOT);
  assert.deepEqual(visibleRows(nodes, new Set(), all).map(({ key, level, expanded }) => [key, level, expanded]), [
    ['web', 1, true], ['echo', 2, true], ['echo/0', 3, undefined], ['echo/1', 3, undefined], ['solo/0', 1, undefined], ['backup/0', 1, undefined],
  ]);
  assert.equal(findNode(nodes, 'backup/0').kind, 'task');
  assert.equal(findNode(nodes, 'solo').key, 'solo/0');
  assert.equal(findNode(nodes, 'echo').children.length, 2);
  assert.equal(findNode(nodes, 'gone'), null);
  assert.deepEqual(ownerKeys(nodes), ['web', 'echo']);
  assert.deepEqual(nodes.flatMap(leavesOf).map(({ key }) => key), ['echo/0', 'echo/1', 'solo/0', 'backup/0']);
});

test('rows are closed and filtered with their owners', () => {
  const nodes = buildModel(ROOT);
  const keys = (...args) => visibleRows(nodes, ...args).map(({ key }) => key);
  assert.deepEqual(keys(new Set(['web']), all), ['web', 'solo/0', 'backup/0']);
  const rows = visibleRows(nodes, new Set(), ({ key }) => key === 'echo/1');
  assert.deepEqual(rows.map(({ key, position, size }) => [key, position, size]), [['web', 1, 1], ['echo', 1, 1], ['echo/1', 1, 1]]);
});

test('owners sum up what their instances use', () => {
  const [web] = buildModel(ROOT);
  const loads = new Map([['echo/0', { instance: instance('echo', 0, { state: 'unready' }), cpu: 0.5, inFlight: 2, resident: 10 }]]);
  const memory = new Map([['echo/0', { pid: 100, proportional: 4 }], ['echo/1', { pid: 9, proportional: 4, resident: 8 }]]);
  const values = rowValues(web, loads, memory);
  assert.deepEqual(JSON.parse(values.states), [['failed', 1], ['unready', 1]]);
  assert.deepEqual([values.cpu, values.inFlight, values.resident, values.proportional, values.restarts], [0.5, 2, 10, 4, 2]);
  const none = rowValues(web, new Map(), new Map());
  assert.deepEqual([none.cpu, none.inFlight, none.resident], [undefined, undefined, undefined]);
});

test('the CPU time of another process is not compared', () => {
  const history = new LoadHistory();
  const message = (time, pid, cpu) => ({ time, instances: [{ instance: instance('echo', 0, { pid }), cpu, resident: 1, load: { in_flight: 3 } }] });
  assert.equal(history.add(message(1, 7, 10)).get('echo/0').cpu, undefined);
  assert.equal(history.add(message(3, 7, 11)).get('echo/0').cpu, 0.5);
  const other = history.add(message(4, 8, 0.25)).get('echo/0');
  assert.equal(other.cpu, undefined);
  assert.deepEqual([other.cpuHistory, other.inFlightHistory], [[], [3]]);
  for (let time = 5; time < 200; time += 1) history.add(message(time, 8, time));
  assert.equal(history.add(message(200, 8, 200)).get('echo/0').cpuHistory.length, 60);
});

test('states that are not known are shown, too', () => {
  assert.equal(toneOf('reticulating'), 'info');
  assert.equal(isTrouble('reticulating'), false);
  assert.deepEqual(countStates(['ready', 'new', 'failed', 'ready']), [['failed', 1], ['ready', 2], ['new', 1]]);
});

test('events that are as they should be do not stand out', () => {
  const cases = [['INFO', 'starting', 'off'], ['INFO', 'ready', 'good'], ['WARNING', 'exited', 'warn'], ['ERROR', 'gave-up', 'bad']];
  for (const [level, kind, tone] of cases) assert.equal(toneOfEvent({ level, kind }), tone, kind);
});
