import assert from 'node:assert/strict';
import { test } from 'node:test';
import { escapeText, splitHidden } from '../static/escape.js';

test('what is visible stays as it is', () => {
  for (const text of ['', 'plain', 'äöü € 日本 🦀', '<script>alert(1)</script>', 'two\nlines\tand a tab']) assert.equal(escapeText(text), text);
});

test('what is invisible is shown as an escape', () => {
  const rows = [
    ['\u001b[31mred', '\\e[31mred'], ['a\u0000b', 'a\\x00b'], ['\u0007', '\\x07'], ['over\rwritten', 'over\\rwritten'], ['\u009b2J', '\\x9b2J'],
    ['\u202egnp.exe', '\\u202egnp.exe'], ['ad\u200bmin', 'ad\\u200bmin'], ['\u2028', '\\u2028'], ['\ufeff', '\\ufeff'], ['\ud800', '\\ud800'],
    ['\u{e0041}', '\\u{e0041}'], ['\u007f', '\\x7f'], ['\u00ad', '\\xad'],
  ];
  for (const [text, expected] of rows) assert.equal(escapeText(text), expected);
});

test('on one line, newlines and tabs are escapes as well', () => {
  assert.equal(escapeText('a\n\tb', { oneLine: true }), 'a\\n\\tb');
});

test('parts tell escapes from text that looks like one', () => {
  assert.deepEqual(splitHidden('\\e \u001b\u0007x'), [
    { text: '\\e ', hidden: false }, { text: '\\e\\x07', hidden: true }, { text: 'x', hidden: false },
  ]);
  assert.deepEqual(splitHidden(''), []);
  assert.deepEqual(splitHidden(7), [{ text: '7', hidden: false }]);
});

test('every control character and bidirectional control is found', () => {
  const codes = [...Array(32).keys(), ...Array.from({ length: 33 }, (_, index) => 127 + index)].filter((code) => code !== 9 && code !== 10);
  for (const code of [...codes, 0x61c, 0x200e, 0x200f, 0x202a, 0x202e, 0x2066, 0x2069]) {
    assert.ok(splitHidden(String.fromCodePoint(code))[0].hidden, code.toString(16));
  }
});
