"""Every statement of docs/security.md has a test, and each test that it names exists."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

from tests import ROOT

PAGE = (ROOT / "docs" / "security.md").read_text("utf-8")
NOTES: dict[str, str] = dict(re.findall(r"^\[\^([\w.-]+)\]: `([^`]+)`$", PAGE, re.MULTILINE))
_USE = re.compile(r"\[\^([\w.-]+)\](?!:)")
_SECTIONS = ("Doors", "What each can and cannot do", "What each right amounts to", "Bounds")
"""Those whose statements need a test; the others say what words mean and what is not promised."""


@cache
def names_in(path: Path) -> frozenset[str]:
    """The names of the test functions and classes of a module."""
    tree = ast.parse(path.read_text("utf-8"))
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
    return frozenset(node.name for node in ast.walk(tree) if isinstance(node, kinds))


def statements() -> list[str]:
    """The list items and the rows of tables in the sections that need tests."""
    found = []
    for part in re.split(r"^## ", PAGE, flags=re.MULTILINE)[1:]:
        title, _, text = part.partition("\n")
        if title in _SECTIONS:
            items = re.findall(r"^- (?:[^\n]|\n(?!\n|- ))+", text, re.MULTILINE)
            rows = re.findall(r"^\| [^\n]+$", text, re.MULTILINE)
            heads = ("| bound |", "| default |", "| --- |")
            found += [*items, *(row for row in rows if not row.startswith(heads))]
    return found


@pytest.mark.parametrize("note", sorted(NOTES))
def test_a_test_that_is_named_exists(note: str) -> None:
    path, _, name = NOTES[note].partition("::")
    assert (ROOT / path).is_file(), f"{note}: there is no {path}"
    assert name in names_in(ROOT / path), f"{note}: {path} has no {name}"


def test_there_are_statements_and_each_has_a_test() -> None:
    found = statements()
    assert len(found) > 30
    without = [text for text in found if not _USE.search(text)]
    assert without == [], "each needs [^note]; bounds get theirs from TESTS of docs/bounds.py"


def test_every_note_is_used_and_defined() -> None:
    assert {*_USE.findall(PAGE)} == {*NOTES}
