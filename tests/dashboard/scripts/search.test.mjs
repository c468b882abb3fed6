import assert from 'node:assert/strict';
import { test } from 'node:test';
import { isFound, parseQuery, splitMatches } from '../static/model/search.js';

test('queries', () => {
  const cases = [
    ['', [], []],
    ['  Foo  bar ', ['foo', 'bar'], []],
    ['"two words" -not', ['two words'], ['not']],
    ['-"not this" x', ['x'], ['not this']],
    ['"open end', ['open end'], []],
    ['- a-b', ['a-b'], []],
    ['""', [], []],
  ];
  for (const [query, wanted, unwanted] of cases) assert.deepEqual(parseQuery(query), { wanted, unwanted }, query);
});

test('all words have to be there, and none of the others', () => {
  const found = (text, query) => isFound(text.toLowerCase(), parseQuery(query));
  assert.ok(found('Connection refused by peer', 'PEER refused'));
  assert.ok(!found('Connection refused by peer', 'refused -peer'));
  assert.ok(found('anything', ''));
  assert.ok(!found('a.b', 'a*b'));
});

test('matches are marked where they are', () => {
  const marked = (text, ...words) => splitMatches(text, words).map(({ text: part, match }) => (match ? `[${part}]` : part)).join('');
  assert.equal(marked('Foo bar foo', 'foo'), '[Foo] bar [foo]');
  assert.equal(marked('aaa', 'a', 'aa'), '[aa][a]');
  assert.equal(marked('nothing', 'x'), 'nothing');
  assert.equal(marked('', 'x'), '');
  assert.equal(marked('text'), 'text');
  assert.equal(marked('İstanbul stan', 'stan'), 'İstanbul stan');
});
