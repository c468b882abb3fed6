import assert from 'node:assert/strict';
import { afterEach, beforeEach, mock, test } from 'node:test';
import { compareMeshes } from '../static/session.js';
import { mergeTopics, Stream } from '../static/stream.js';

class Source {
  static all = [];

  constructor(url) {
    Object.assign(this, { url, closed: false, listeners: {} });
    Source.all.push(this);
  }

  addEventListener(type, listener) {
    this.listeners[type] = listener;
  }

  send(type, data) {
    this.listeners[type]?.({ data: JSON.stringify(data) });
  }

  close() {
    this.closed = true;
  }
}

const settle = () => new Promise((resolve) => setImmediate(resolve));

function open({ probe = async () => ({}) } = {}) {
  const stream = new Stream({ openSource: (url) => new Source(url), probe });
  stream.want({ statistics: 1 });
  stream.setVisible(true);
  return stream;
}

const latest = () => Source.all.at(-1);

beforeEach(() => {
  Source.all = [];
  mock.timers.enable({ apis: ['setTimeout'] });
});

afterEach(() => mock.timers.reset());

test('topics of all views are one query', () => {
  assert.equal(mergeTopics([{ events: 20, statistics: 1 }, { events: 100, logs: '*' }]), 'events=100&logs=*&statistics=1');
  assert.equal(mergeTopics([{ log_level: '', tap: null }]), '');
});

test('messages reach their handlers, and one that raises harms no other', () => {
  const stream = open();
  const seen = [];
  mock.method(console, 'error', () => {});
  stream.on('event', () => { throw new Error('of a view'); });
  const end = stream.on('event', (data) => seen.push(data.sequence));
  latest().send('mesh', {});
  latest().send('event', { sequence: 1 });
  end();
  latest().send('event', { sequence: 2 });
  assert.deepEqual(seen, [1]);
  assert.equal(stream.status.value.phase, 'live');
  mock.restoreAll();
});

test('a page that is hidden has no stream, and knows that it has missed something', () => {
  const stream = open();
  latest().send('mesh', {});
  stream.setVisible(false);
  assert.ok(latest().closed);
  assert.equal(stream.status.value.phase, 'hidden');
  stream.setVisible(true);
  assert.equal(Source.all.length, 2);
  latest().send('mesh', {});
  assert.equal(stream.resumed.value, 1);
  assert.equal(stream.opened.value, 2);
});

test('other topics open another stream, which is no interruption', async () => {
  const stream = open();
  latest().send('mesh', {});
  const end = stream.want({ logs: '*' });
  await settle();
  mock.timers.tick(1);
  assert.equal(latest().url, '/api/stream?logs=*&statistics=1');
  assert.ok(Source.all[0].closed);
  latest().send('mesh', {});
  assert.equal(stream.resumed.value, 0);
  end();
  stream.want({ logs: '*' }); // The next view wants the same: nothing is opened.
  await settle();
  mock.timers.tick(1);
  assert.equal(Source.all.length, 2);
});

test('without a mesh it is tried again, less and less often', async () => {
  const stream = open({ probe: async () => { throw Object.assign(new Error(), { status: 0, text: 'the mesh cannot be reached' }); } });
  latest().send('mesh', {});
  const delays = [];
  for (let attempt = 0; attempt < 8; attempt += 1) {
    latest().onerror();
    await settle();
    const { phase, retryAt, text } = stream.status.value;
    assert.deepEqual([phase, text], ['away', 'the mesh cannot be reached']);
    delays.push(retryAt - Date.now());
    mock.timers.tick(20_000);
    assert.equal(Source.all.length, attempt + 2);
  }
  assert.ok(delays[0] <= 625, String(delays));
  assert.ok(delays[4] > 2 * delays[1], String(delays));
  assert.ok(delays[7] > 10_000 && delays[7] <= 18_750, String(delays));
  latest().send('mesh', {});
  assert.equal(stream.status.value.phase, 'live');
  assert.equal(stream.resumed.value, 1);
});

test('a session that is not accepted is not tried again', async () => {
  const stream = open({ probe: async () => { throw Object.assign(new Error(), { status: 401, text: 'no' }); } });
  latest().onerror();
  await settle();
  assert.equal(stream.status.value.phase, 'expired');
  mock.timers.tick(100_000);
  stream.setVisible(false);
  stream.setVisible(true);
  assert.equal(Source.all.length, 1);
});

test('a page that is hidden while the mesh is away does not connect', async () => {
  const stream = open();
  latest().onerror();
  await settle();
  stream.setVisible(false);
  mock.timers.tick(100_000);
  assert.equal(Source.all.length, 1);
  stream.setVisible(true);
  assert.equal(Source.all.length, 2);
});

test('what has become of the mesh', () => {
  const mesh = { execution: 1, version: '1', started: 100 };
  const rows = [
    [null, mesh, null], [mesh, mesh, null], [mesh, { ...mesh, execution: 2 }, 'upgraded'], [mesh, { ...mesh, started: 200 }, 'restarted'],
    [{ ...mesh, execution: 3 }, mesh, 'restarted'], [mesh, { ...mesh, started: 100.4 }, null],
  ];
  for (const [before, now, expected] of rows) assert.equal(compareMeshes(before, now), expected);
});
