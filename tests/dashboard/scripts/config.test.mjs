import assert from 'node:assert/strict';
import { test } from 'node:test';
import { ACTIONS, describeReply } from '../static/actions.js';
import { sortRows } from '../static/components/table.js';
import { linePath } from '../static/components/sparkline.js';
import { highlightToml } from '../static/model/toml.js';

const kinds = (line) => highlightToml(line)[0].filter(({ kind }) => kind !== 'plain').map(({ kind, text }) => `${kind}:${text}`);

test('TOML is split into parts', () => {
  const rows = [
    ['[mesh.gateway]', ['table:[mesh.gateway]']], ['[[plugins]]', ['table:[[plugins]]']], ['name = "a#b" # why', ['key:name', 'string:"a#b"', 'comment:# why']],
    ['"quoted key" = 1.5e3', ['key:"quoted key"', 'number:1.5e3']], ['on = true', ['key:on', 'literal:true']], ['token = "***"', ['key:token', 'masked:"***"']],
    ["a = ['x', \"y\"]", ['key:a', "string:'x'", 'string:"y"']], ['  indented = -1', ['key:indented', 'number:-1']],
    ['t = { a = 1 }', ['key:t', 'number:1']],
  ];
  for (const [line, expected] of rows) assert.deepEqual(kinds(line), expected, line);
});

test('whatever the text is, no character of it is lost', () => {
  for (const text of ['', '\n\n', 'x = """\nmany\nlines\n"""\n', '= = [ ] "unfinished', '\u202e<b>\u001b[31m', 'a = 1\r\nb = 2']) {
    const joined = highlightToml(text).map((parts) => parts.map((part) => part.text).join('')).join('\n');
    assert.equal(joined, text.replace(/\n$/, ''));
  }
});

test('rows without a value are last in either direction', () => {
  const columns = [{ key: 'n', sort: (row) => row.n }];
  const rows = [{ n: 2 }, { n: undefined }, { n: 10 }, { n: null }];
  const order = (reverse) => sortRows(rows, columns, { key: 'n', reverse }).map(({ n }) => n);
  assert.deepEqual(order(false).slice(0, 2), [2, 10]);
  assert.deepEqual(order(true).slice(0, 2), [10, 2]);
  assert.deepEqual(sortRows([{ n: 'p10' }, { n: 'p9' }], columns, { key: 'n' }).map(({ n }) => n), ['p9', 'p10']);
  assert.equal(sortRows(rows, columns, { key: 'unknown' }), rows);
});

test('a sparkline ends at its right edge', () => {
  assert.equal(linePath([0, 1], 1), 'M68.2 19L72 1');
  assert.doesNotMatch(linePath([0, 0], 0), /NaN/);
});

test('actions make the requests of Control', () => {
  const target = { kind: 'plugin', name: 'echo', instances: 2, level: 'debug' };
  assert.deepEqual(ACTIONS.restart.body(target), { name: 'echo' });
  assert.deepEqual(ACTIONS.scale.body(target, '3'), { name: 'echo', instances: 3 });
  assert.deepEqual(ACTIONS['set-log-level'].body(target, 'error'), { name: 'echo', level: 'error' });
  assert.deepEqual(ACTIONS.reload.body(), {});
  for (const { text } of Object.values(ACTIONS)) assert.match(text(target), /\.$/);
});

test('replies as one line', () => {
  assert.equal(describeReply('reload', { added: ['a'], removed: [], scaled: ['b', 'c'] }), 'added a; scaled b, c');
  assert.equal(describeReply('reload', {}), 'nothing has changed');
  assert.equal(describeReply('drain', { instances: [
    { plugin: 'echo', instance: 0, ended: 'exited with status 0', forced: false, cut_calls: [] },
    { plugin: 'echo', instance: 1, ended: 'was killed', forced: true, cut_calls: ['/a/B'] }, { plugin: 'echo', instance: 2, ended: '' }],
  }), 'echo/0 exited with status 0; echo/1 was killed (forced), 1 call cut off');
  assert.equal(describeReply('stop', {}), '');
});
