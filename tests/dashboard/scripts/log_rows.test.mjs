import assert from 'node:assert/strict';
import { test } from 'node:test';
import { fieldsOf, LogRows } from '../static/model/log_rows.js';

const line = (text, fields = {}) => ({
  time: 1, plugin: 'echo', instance: 0, pid: 7, stream: 'stderr', text, missed: 0, level: 'INFO', logger: '', trace_id: '', span_id: '', exception: '', ...fields,
});
const rowsOf = (lines) => {
  const rows = new LogRows();
  return lines.map((each) => rows.add(typeof each === 'string' ? line(each) : each)).filter(Boolean);
};
const show = (lines) => rowsOf(lines).map(({ text, folded, summary }) => [text, folded.length, summary]);

const TRACEBACK = ['Traceback (most recent call last):', '  File "a.py", line 1, in <module>', '    boom()', 'ValueError: no'];

test('a traceback is one row', () => {
  assert.deepEqual(show([...TRACEBACK, 'next']), [['Traceback (most recent call last):', 3, 'ValueError: no'], ['next', 0, '']]);
});

test('a traceback belongs to the line that announces it, and to no other', () => {
  assert.deepEqual(show(['ERROR:root:boom', ...TRACEBACK, 'next']), [['ERROR:root:boom', 4, 'ValueError: no'], ['next', 0, '']]);
  assert.deepEqual(show(['served 3 calls', ...TRACEBACK]), [['served 3 calls', 0, ''], ['Traceback (most recent call last):', 3, 'ValueError: no']]);
});

test('chained exceptions are one row with the last as its summary', () => {
  const chained = [...TRACEBACK, '', 'During handling of the above exception, another exception occurred:', '', ...TRACEBACK.slice(0, 3), 'KeyError: 1'];
  assert.deepEqual(show([...chained, 'next']), [['Traceback (most recent call last):', 10, 'KeyError: 1'], ['next', 0, '']]);
});

test('an exception group is one row', () => {
  const group = [
    '  + Exception Group Traceback (most recent call last):', '  |   File "a.py", line 3, in <module>', '  | ExceptionGroup: two (2 sub-exceptions)',
    '  +-+---------------- 1 ----------------', '    | Traceback (most recent call last):', '    | ValueError: a', '    +------------------------------------',
  ];
  assert.deepEqual(show([...group, 'next']), [[group[0], 6, 'ValueError: a'], ['next', 0, '']]);
});

test('stacks of Java and Go', () => {
  assert.deepEqual(show(['Exception in thread "main" x.Y: z', '\tat x.Main.main(Main.java:3)', 'Caused by: x.Z', '\t... 3 more', 'next']).map(([, number]) => number), [3, 0]);
  assert.deepEqual(show(['panic: no', '', 'goroutine 1 [running]:', 'main.main()', '\t/a.go:3 +0x1d', 'main.b()']).map(([, number]) => number), [0, 0, 3]);
});

test('lines of others, and later ones, are rows of their own', () => {
  const [head, ...rest] = TRACEBACK;
  assert.equal(rowsOf([head, ...rest.map((each) => line(each, { instance: 1 }))]).length, 4);
  assert.equal(rowsOf([head, ...rest.map((each) => line(each, { time: 9 }))]).length, 4);
  assert.equal(rowsOf([head, ...rest.map((each) => line(each, { stream: 'stdout' }))]).length, 4);
});

test('a fold is bounded', () => {
  const rows = rowsOf([TRACEBACK[0], ...Array(1200).fill('  frame')]);
  assert.ok(rows.length > 1);
  assert.equal(rows[0].folded.length, 500);
});

test('a row that takes a line has another version, and is found by it', () => {
  const rows = new LogRows();
  const row = rows.add(line(TRACEBACK[0]));
  const before = row.version;
  assert.equal(rows.add(line('  File "Deep.py"')), null);
  assert.notEqual(row.version, before);
  assert.ok(row.search.includes('deep.py'));
});

test('a line of JSON has a message, fields and a folded exception', () => {
  const text = '{"level": "error", "msg": "boom", "user": "ann", "n": 3, "deep": {"a": [1]}, "exc_info": "Traceback"}';
  const [row] = rowsOf([line(text, { message: 'boom', level: 'ERROR', exception: TRACEBACK.join('\n') })]);
  assert.deepEqual([row.text, row.level, row.folded.length, row.summary], ['boom', 'ERROR', 4, 'ValueError: no']);
  assert.deepEqual(fieldsOf(row), [['user', 'ann'], ['n', '3'], ['deep', '{"a":[1]}']]);
  assert.ok(row.search.includes('ann'));
});

test('JSON that is none of an object has no fields', () => {
  for (const text of ['{"cut": "sho', '[1]', 'null', '3']) {
    assert.deepEqual(fieldsOf(rowsOf([line(text, { message: 'x' })])[0]), [], text);
  }
  assert.deepEqual(fieldsOf(rowsOf([line('{"a": 1}')])[0]), []);
  const [row] = rowsOf([line('{"__proto__": {"x": 1}, "level": {"odd": true}}', { message: 'x' })]);
  assert.deepEqual(fieldsOf(row), [['__proto__', '{"x":1}'], ['level', '{"odd":true}']]);
});
