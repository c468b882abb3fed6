import assert from 'node:assert/strict';
import { test } from 'node:test';
import { assignLanes, describeLife, gapsOf, LifeStore, nearestLife, phasesOf, stateOf } from '../static/model/lives.js';
import { MAX_SPAN, MIN_SPAN, pan, reveal, tickLabel, ticks, zoom } from '../static/model/time_axis.js';

let ids = 0;
const life = (started, ended, fields = {}) => ({
  id: (ids += 1), plugin: 'echo', instance: 0, task: false, pid: 7, started, ...(ended === undefined ? {} : { ended, outcome: 'failed' }), follows: 'start',
  moments: [], reason: '', last_lines: [], next_state: '', ...fields,
});
const moment = (time, kind) => ({ time, kind, text: '' });
const phases = (...args) => phasesOf(...args).map(({ phase, from, to }) => [phase, from, to]);

test('phases of a life', () => {
  const rows = [
    [life(10), 15, [['starting', 10, 15]]],
    [life(10, 20, { moments: [moment(12, 'ready'), moment(15, 'unready'), moment(16, 'ready'), moment(18, 'draining'), moment(20, 'exited')] }), 99,
      [['starting', 10, 12], ['ready', 12, 15], ['unready', 15, 16], ['ready', 16, 18], ['draining', 18, 20]]],
    [life(10, 20, { moments: [moment(18, 'stopping'), moment(18.5, 'draining')] }), 99, [['starting', 10, 18], ['draining', 18, 20]]],
    [life(10, undefined, { task: true }), 12, [['running', 10, 12]]],
    [life(10, 10), 12, [['starting', 10, 10]]],
    // Clocks that are set back, and a page whose clock is behind.
    [life(10, 20, { moments: [moment(8, 'ready'), moment(30, 'unready')] }), 5, [['ready', 10, 20], ['unready', 20, 20]]],
    [life(10), 5, [['starting', 10, 10]]],
  ];
  for (const [each, now, expected] of rows) assert.deepEqual(phases(each, now), expected);
});

test('gaps last until the next process, or now', () => {
  const lives = [life(0, 10, { next_state: 'backoff' }), life(15, 20), life(19, 30, { next_state: 'stopped' })];
  assert.deepEqual(gapsOf({ lives }, 50).map(({ state, from, to }) => [state, from, to]), [['backoff', 10, 15], ['stopped', 30, 50]]);
});

test('a renewal runs beside its predecessor in a lane of its own', () => {
  assert.deepEqual(assignLanes([life(0, 10), life(8, 30), life(12, 20), life(25)]), [0, 1, 0, 0]);
});

test('the store keeps rows that have not changed, and the latest state of a life', () => {
  const store = new LifeStore();
  const [one, two] = [life(0, 10, { id: 1001 }), life(5, undefined, { id: 1002, plugin: 'other', moments: [moment(6, 'ready')] })];
  store.add([one, two]);
  const before = store.rows();
  store.add([{ ...two, ended: 9, outcome: 'exited' }]);
  const after = store.rows();
  assert.equal(after[0], before[0]);
  assert.notEqual(after[1], before[1]);
  store.add([two]); // A reply that is older than a message.
  assert.equal(store.rows()[1].lives[0].ended, 9);
  assert.deepEqual(store.rows(9.5).map(({ key }) => key), ['echo/0']);
  store.clear();
  assert.deepEqual(store.rows(), []);
});

test('rows are in the order of names and numbers, tasks last', () => {
  const store = new LifeStore();
  store.add([life(0, 1, { plugin: 'a', task: true }), life(0, 1, { plugin: 'p10' }), life(0, 1, { plugin: 'p9', instance: 10 }), life(0, 1, { plugin: 'p9', instance: 2 })]);
  assert.deepEqual(store.rows().map(({ key }) => key), ['p9/2', 'p9/10', 'p10/0', 'a/0']);
});

test('a life as a sentence', () => {
  const text = describeLife(life(100, 160, { moments: [moment(100.5, 'ready')], follows: 'renewal', reason: 'killed by SIGKILL', last_lines: ['x'] }), 500);
  assert.match(text, /^echo\/0, pid 7, started [\d:]+ \(renewal\), ready after 500 ms, failed [\d:]+ after 1 min: killed by SIGKILL, 1 last line$/);
  assert.equal(stateOf(life(0), 10), 'starting');
});

test('the nearest life', () => {
  const lives = [life(0, 10), life(20, 30), life(40)];
  const at = (when) => lives.indexOf(nearestLife({ lives }, when, 50));
  assert.deepEqual([at(-5), at(5), at(14), at(16), at(99)], [0, 0, 0, 1, 2]);
});

test('zoom keeps what it is about in its place', () => {
  const view = { span: 100, end: 1000 };
  assert.deepEqual(zoom(view, 0.5, 950, 5000), { span: 50, end: 975 });
  assert.deepEqual(zoom({ span: 100, end: null }, 0.5, null, 5000), { span: 50, end: null });
  assert.equal(zoom(view, 1e-9, 950, 5000).span, MIN_SPAN);
  assert.equal(zoom(view, 1e9, 950, 5000).span, MAX_SPAN);
});

test('a window that reaches the present follows it', () => {
  assert.deepEqual(pan({ span: 100, end: 1000 }, -0.5, 5000), { span: 100, end: 950 });
  assert.deepEqual(pan({ span: 100, end: 4960 }, 0.5, 5000), { span: 100, end: null });
  assert.deepEqual(reveal({ span: 100, end: 1000 }, 950, 5000), { span: 100, end: 1000 });
  assert.deepEqual(reveal({ span: 100, end: 1000 }, 500, 5000), { span: 100, end: 590 });
  assert.deepEqual(reveal({ span: 100, end: 1000 }, 1200, 5000), { span: 100, end: 1210 });
});

test('ticks are on round local times', () => {
  assert.deepEqual(ticks(7, 35, 8, 0), { step: 10, times: [10, 20, 30] });
  assert.deepEqual(ticks(0, 7200, 3000, 1800).times, [1800, 5400]);
  assert.deepEqual(ticks(0, 10, 1e9, 0).times, [0]);
  assert.match(tickLabel(1e9, 10), /^\d\d:\d\d:40$/);
  assert.match(tickLabel(1e9, 60), /^\d\d:\d\d$/);
});

test('a loop of crashes does not fill the store', () => {
  const store = new LifeStore();
  store.add(Array.from({ length: 100 }, (_, index) => life(index * 10, index * 10 + 5, { next_state: 'backoff' })));
  assert.equal(store.rows(500)[0].lives.length, 51); // One more: its backoff lasted until then.
  store.prune(990);
  assert.deepEqual(store.rows().map(({ lives }) => lives.length), [2]);
  store.prune(5000);
  assert.deepEqual(store.rows(5000).map(({ lives }) => lives.length), [1]);
});
