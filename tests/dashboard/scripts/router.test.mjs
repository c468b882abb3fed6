import assert from 'node:assert/strict';
import { test } from 'node:test';
import { href, parseHash } from '../static/router.js';

test('a hash is a view and its parameters', () => {
  assert.deepEqual(parseHash(''), { view: 'tree', params: {} });
  assert.deepEqual(parseHash('#/logs'), { view: 'logs', params: {} });
  assert.deepEqual(parseHash('#/logs?names=a%2Fb&q=x%3F%26y'), { view: 'logs', params: { names: 'a/b', q: 'x?&y' } });
});

test('what is made of a view is read as it', () => {
  const params = { names: 'a&b=c#d?e', q: '\u202e<b>' };
  assert.deepEqual(parseHash(href('tap', params)), { view: 'tap', params });
  assert.equal(href('tap', { q: '', names: null, life: undefined }), '#/tap');
});
