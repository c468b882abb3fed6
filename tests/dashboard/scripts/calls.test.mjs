import assert from 'node:assert/strict';
import { test } from 'node:test';
import { makeCallRow, parseSeconds, shortMethod } from '../static/model/call_rows.js';
import { CallHistory, reuse, seriesKey } from '../static/model/calls.js';
import { STATUS_NAMES, statusName, toneOfStatus } from '../static/model/status.js';

const row = (fields = {}) => ({
  plugin: 'echo', via: 'plugin', service: 'pkg.Echo', method: 'Say', rate: 10, in_flight: 1, errors: {}, p50: 0.001, p95: 0.002, p99: 0.003, count: 10, ...fields,
});
const near = (value, expected) => assert.ok(Math.abs(value - expected) < 1e-6, `${value} is not ${expected}`);

function history(samples, kept) {
  const calls = new CallHistory(kept);
  samples.forEach((rows, index) => calls.add({ time: 100 + index, interval: 1, rows }));
  return calls;
}

test('the table has means, sums and the latest quantiles', () => {
  const calls = history([[row({ errors: { INTERNAL: 2 } })], [row({ rate: 20, errors: { INTERNAL: 1, ABORTED: 4 }, p99: 0.5 })], []]);
  const [each] = calls.table(60);
  near(each.rate, 10);
  assert.deepEqual(each.errors, [['ABORTED', 4], ['INTERNAL', 3]]);
  near(each.errorShare, 7 / 30);
  near(each.p99, 0.5);
  assert.equal(each.inFlight, 0);
  assert.equal(each.history.length, 3);
  assert.equal(calls.table(1)[0].rate, 0);
  assert.equal(calls.table(1)[0].p99, undefined);
});

test('charts add series up, with zero for what was not called', () => {
  const other = row({ method: 'Other', rate: 1, errors: { INTERNAL: 1 } });
  const calls = history([[row()], [row(), other], [other]]);
  const both = calls.chart([seriesKey(row()), seriesKey(other)], 60);
  assert.deepEqual(both.times, [100, 101, 102]);
  assert.deepEqual(both.rate, [10, 11, 1].map((each, index) => (index ? each : null)));
  assert.deepEqual([...both.statuses.keys()], ['INTERNAL']);
  assert.equal(both.exact, false);
  near(both.p99[1], 0.003);
  near(both.p99[2], 0.003);
  const one = calls.chart([seriesKey(row())], 60);
  assert.deepEqual(one.rate, [10, 10, 0]);
  assert.equal(one.p50[2], null);
  near(one.p50[0], 0.001);
  assert.deepEqual(calls.chart(['gone'], 60).rate, [0, 0, 0]);
});

test('quantiles are those of the sum if there is one, else of the slowest', () => {
  const [slow, sums] = [row({ method: 'Slow', p99: 2 }), row({ service: '', method: '', p99: 1 })];
  const calls = history([[row(), slow, sums]]);
  const keys = [row(), slow].map(seriesKey);
  assert.deepEqual([calls.chart(keys, 60).p99, calls.chart(keys, 60).exact], [[2], false]);
  assert.deepEqual([calls.chart(keys, 60, seriesKey(sums)).p99, calls.chart(keys, 60, seriesKey(sums)).exact], [[1], true]);
  assert.deepEqual(calls.table(60).map(({ method }) => method), ['Say', 'Slow']);
});

test('rows that are as before are the same objects', () => {
  const calls = history([[row()], [row(), row({ method: 'B' })]]);
  const first = calls.table(60);
  const second = reuse(first, [{ ...first[0] }, { ...first[1], rate: 99 }]);
  assert.equal(second[0], first[0]);
  assert.notEqual(second[1], first[1]);
});

test('a ring keeps the latest samples', () => {
  const calls = history(Array.from({ length: 25 }, (_, index) => [row({ rate: index })]), 10);
  assert.equal(calls.size, 10);
  assert.deepEqual(calls.chart([seriesKey(row())], 1000).rate, [15, 16, 17, 18, 19, 20, 21, 22, 23, 24]);
  assert.deepEqual(calls.chart([seriesKey(row())], 2).times, [123, 124]);
});

test('there is a gap where the page was hidden, and nothing is counted twice', () => {
  const calls = history([[row()], [row()]]);
  calls.add({ time: 160, interval: 1, rows: [row()] });
  calls.add({ time: 160, interval: 1, rows: [row({ rate: 99 })] });
  const chart = calls.chart([seriesKey(row())], 1000);
  assert.deepEqual(chart.times, [100, 101, 102, 160]);
  assert.deepEqual(chart.rate, [10, 10, null, 10]);
  near(calls.table(1000)[0].rate, 10);
});

test('the number of series is bounded by what was called last', () => {
  const calls = new CallHistory(4);
  for (let index = 0; index < 1000; index += 1) calls.add({ time: index, interval: 1, rows: [row({ method: `M${index}` })] });
  const methods = calls.table(1000).map(({ method }) => method);
  assert.equal(methods.length, 400);
  assert.ok(methods.includes('M999') && !methods.includes('M0'));
});

test('keys of hostile names differ', () => {
  assert.notEqual(seriesKey(row({ plugin: 'a","b' })), seriesKey(row({ plugin: 'a', service: 'b","pkg.Echo' })));
});

test('rows of the tap', () => {
  const call = { time: 1, method: 'pkg.Echo/Say', seconds: 0.5, status: 14, message: 'Gone', peer: 'uid 0', forwarded_for: '', received: 1, sent: 2, trace_id: 'ab' };
  const made = makeCallRow({ plugin: 'echo', instance: 2, call });
  assert.deepEqual([made.status, made.failed, made.caller], ['UNAVAILABLE', true, 'uid 0']);
  assert.ok(made.search.includes('gone') && made.search.includes('unavailable'));
  assert.equal(makeCallRow({ plugin: 'e', instance: 0, call: { ...call, forwarded_for: '1.2.3.4' } }).caller, '1.2.3.4');
});

test('methods without their packages', () => {
  assert.equal(shortMethod('a.b.v1.Echo/Say'), 'Echo/Say');
  assert.equal(shortMethod('Echo/Say'), 'Echo/Say');
  assert.equal(shortMethod('odd'), 'odd');
});

test('durations that are typed', () => {
  const cases = [['', 0], ['0.25', 0.25], ['250 ms', 0.25], ['1.5s', 1.5], [',5', 0.5], ['20us', 2e-5], ['ms', NaN], ['-1', NaN], ['soon', NaN]];
  for (const [text, seconds] of cases) assert.ok(Object.is(parseSeconds(text), seconds) || Math.abs(parseSeconds(text) - seconds) < 1e-12, text);
});

test('statuses', () => {
  assert.equal(STATUS_NAMES.length, 17);
  assert.equal(statusName(16), 'UNAUTHENTICATED');
  assert.equal(statusName(99), 'status 99');
  assert.deepEqual(['OK', 'NOT_FOUND', 'INTERNAL', 'CANCELLED', 'status 99'].map(toneOfStatus), ['good', 'warn', 'bad', 'off', 'bad']);
});
