"""Escaping text of unknown origin. Pure tables."""

from __future__ import annotations

import json

import pytest

from meshtrio.util.text import escape_unprintable, escape_unprintable_json

SHOWN = {
    "plain, é, 😀, \u4e2d\u6587, a\u00a0b": "plain, é, 😀, \u4e2d\u6587, a\u00a0b",
    "a\tb": "a\tb",
    "\x1b[31mred\x1b[0m": r"\x1b[31mred\x1b[0m",
    "\x1b]0;title\x07": r"\x1b]0;title\x07",
    "\x9b31m": r"\x9b31m",
    "a\rb\nc\x0bd\x0ce\x1cf\x85g": r"a\rb\nc\x0bd\x0ce\x1cf\x85g",
    "a\u2028b\u2029c": r"a\u2028b\u2029c",
    "\x00\x08\x7f": r"\x00\x08\x7f",
    "abc\u202ecba\u2066x\u200f": r"abc\u202ecba\u2066x\u200f",
    "a\u200bb\ufeff\u2060": r"a\u200bb\ufeff\u2060",
    "\U000e0041": r"\U000e0041",
    "\ud800 \udcff": r"\ud800 \udcff",
    "[bold red]not markup[/] :smile:": "[bold red]not markup[/] :smile:",
    "\u200d joins emoji": "\u200d joins emoji",
}


@pytest.mark.parametrize("text", SHOWN, ids=ascii)
def test_what_controls_or_deceives_is_shown_as_an_escape(text: str) -> None:
    assert escape_unprintable(text) == SHOWN[text]
    assert escape_unprintable(escape_unprintable(text)) == SHOWN[text]


@pytest.mark.parametrize("text", SHOWN, ids=ascii)
def test_json_stays_what_it_was(text: str) -> None:
    document = escape_unprintable_json(json.dumps({text: [text]}, ensure_ascii=False, indent=2))
    assert json.loads(document) == {text: [text]}
    assert escape_unprintable(document.replace("\n", "")) == document.replace("\n", "")
