import assert from 'node:assert/strict';
import { test } from 'node:test';
import { age, bytes, count, duration, NONE, percent, plural, rate, significant } from '../static/format.js';

const table = (name, call, rows) => test(name, () => {
  for (const [value, expected] of rows) assert.equal(call(value), expected, `${name}(${value})`);
});

table('duration', duration, [
  [0, '0 s'], [0.00042, '0.42 ms'], [0.0123, '12.3 ms'], [0.5, '500 ms'], [0.9996, '1 s'], [1.25, '1.25 s'], [59.9, '59.9 s'], [59.96, '1 min'],
  [252, '4 min 12 s'], [3600, '1 h'], [11_040, '3 h 4 min'], [86_400, '1 d'], [190_800, '2 d 5 h'], [-2, '-2 s'], [undefined, NONE], [NaN, NONE],
  [Infinity, NONE], [1e-7, '1.0e-4 ms'],
]);
table('age', age, [[0, '0 s'], [59.9, '59 s'], [60, '1 min'], [7199, '1 h'], [200_000, '2 d'], [-3, '0 s'], [null, NONE]]);
table('significant', significant, [[0, '0'], [0.5, '0.5'], [9.994, '9.99'], [9.996, '10'], [99.96, '100'], [1234.5, '1235'], [0.001, '1.0e-3'], [-12.34, '-12.3']]);
table('bytes', bytes, [
  [0, '0 B'], [1023, '1023 B'], [1024, '1 KiB'], [1536, '1.5 KiB'], [1023.6 * 1024, '1 MiB'], [12.34 * 2 ** 20, '12.3 MiB'], [2 ** 60, '1024 PiB'], [undefined, NONE],
]);
table('count', count, [[0, '0'], [999, '999'], [1000, '1\u2009000'], [1_234_567, '1\u2009234\u2009567'], [undefined, NONE]]);
table('rate', rate, [[0, '0/s'], [1.234, '1.23/s'], [12_345, '12\u2009345/s'], [undefined, NONE]]);
table('percent', percent, [[0, '0 %'], [0.1234, '12.3 %'], [1, '100 %'], [3e-7, '0 %'], [undefined, NONE]]);

test('plural', () => {
  assert.equal(plural(1, 'instance'), '1 instance');
  assert.equal(plural(0, 'instance'), '0 instances');
});
