import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Feed, lastMatching, Replay } from '../static/model/feed.js';

const add = (feed, ...texts) => texts.forEach((text) => feed.add({ text }));
const texts = (rows) => rows.map(({ text }) => text).join('');

test('the latest rows are kept', () => {
  const feed = new Feed({ limit: 8 });
  add(feed, ...'abcdefghijklmnopqrstuvwxyz');
  assert.ok(feed.rows.length <= 9, feed.rows.length);
  assert.equal(texts(feed.rows).at(-1), 'z');
  assert.deepEqual(feed.rows.map(({ id }) => id), feed.rows.map((_, index) => 27 - feed.rows.length + index));
});

test('few rows of much weight are bounded as well, and one is always kept', () => {
  const feed = new Feed({ limit: 100, maxWeight: 10, weigh: ({ text }) => text.length });
  add(feed, 'aaaa', 'bbbb', 'cc', 'd');
  assert.equal(texts(feed.rows), 'bbbbccd');
  add(feed, 'e'.repeat(50));
  assert.equal(feed.rows.length, 1);
  add(feed, 'f');
  assert.equal(texts(feed.rows), 'f');
});

test('rows that come while it is paused wait', () => {
  const feed = new Feed({ limit: 8 });
  add(feed, ...'abc');
  feed.pause();
  add(feed, ...'def');
  assert.equal(texts(feed.rows), 'abc');
  assert.equal(feed.waiting, 3);
  assert.equal(feed.last.text, 'f');
  feed.resume();
  assert.equal(texts(feed.rows), 'abcdef');
  assert.equal(feed.waiting, 0);
});

test('more than are kept while it is paused are counted', () => {
  const feed = new Feed({ limit: 8, maxWeight: 1000, weigh: () => 1 });
  feed.pause();
  add(feed, ...'abcdefghijklmnopqrst');
  assert.equal(feed.waiting + feed.overflowed, 20);
  assert.ok(feed.waiting <= 9);
  feed.resume();
  assert.equal(texts(feed.rows).at(-1), 't');
  assert.equal(feed.overflowed, 0);
  assert.deepEqual(feed.rows.map(({ id }) => id), feed.rows.map((_, index) => 21 - feed.rows.length + index));
  feed.clear();
  assert.deepEqual([feed.rows, feed.waiting, feed.overflowed], [[], 0, 0]);
});

test('a million rows take no time', () => {
  const feed = new Feed({ limit: 5000, weigh: () => 10 });
  const start = performance.now();
  for (let index = 0; index < 1_000_000; index += 1) feed.add({ index });
  assert.ok(performance.now() - start < 3000);
  assert.ok(feed.rows.length >= 5000 && feed.rows.length <= 5625);
});

test('the last rows that match are shown', () => {
  const rows = [1, 2, 3, 4, 5, 6, 7];
  assert.deepEqual(lastMatching(rows, (each) => each % 2, 2), { shown: [5, 7], total: 4 });
  assert.deepEqual(lastMatching(rows, () => false, 2), { shown: [], total: 0 });
});

test('what is missing is one row until another row comes', () => {
  const feed = new Feed();
  feed.addMissed(2, 'slow');
  feed.addMissed(3, 'slow');
  feed.addMissed(1, 'fast');
  feed.add({ text: 'a' });
  feed.addMissed(4, 'fast');
  assert.deepEqual(feed.rows.map(({ marker, number, version }) => [marker, number, version]), [
    ['slow', 5, 1], ['fast', 1, 0], [undefined, undefined, undefined], ['fast', 4, 0],
  ]);
});

test('what a stream repeats is known, and a gap is told', () => {
  const replay = new Replay();
  const check = (...rows) => rows.map(([source, order]) => replay.check(source, order));
  replay.begin(2);
  assert.deepEqual(check(['a', 1], ['b', 1], ['a', 2]), ['new', 'new', 'new']);
  replay.begin(2);
  assert.deepEqual(check(['b', 1], ['a', 2], ['a', 3]), ['known', 'known', 'new']);
  replay.begin(2);
  assert.deepEqual(check(['a', 4], ['b', 1], ['b', 2]), ['gap', 'known', 'new']);
});

test('rows of the same time are all there', () => {
  const replay = new Replay();
  replay.begin(9);
  assert.deepEqual([replay.check('a', 5), replay.check('a', 5), replay.check('a', 5)], ['new', 'new', 'new']);
  replay.begin(9);
  assert.deepEqual([replay.check('a', 5), replay.check('a', 5), replay.check('a', 6), replay.check('a', 6)], ['known', 'known', 'new', 'new']);
});

test('a clock that is set back hides nothing', () => {
  const replay = new Replay();
  replay.begin(0);
  assert.deepEqual([replay.check('a', 5), replay.check('a', 3)], ['new', 'new']);
});

test('another mesh begins anew', () => {
  const replay = new Replay();
  replay.begin(9);
  replay.check('', 7);
  replay.clear();
  replay.begin(9);
  assert.equal(replay.check('', 1), 'new');
});
