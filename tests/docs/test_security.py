"""Statements of docs/security.md and limits of docs/reference/limits.md name tests that exist."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

from tests import ROOT

_NAMES = ("security.md", "reference/limits.md")
PAGES = {name: (ROOT / "docs" / name).read_text("utf-8") for name in _NAMES}
_NOTE = re.compile(r"^\[\^([\w.-]+)\]: `([^`]+)`$", re.MULTILINE)
NOTES = [(page, *note) for page, text in PAGES.items() for note in _NOTE.findall(text)]
_USE = re.compile(r"\[\^([\w.-]+)\](?!:)")
_SECTIONS = (
    "What each interface allows",
    "What each principal can and cannot do",
    "What the access rules grant",
    "What is bounded",
)
"""Those of the security page whose statements need a test; the others define terms, and say what is
not defended against."""


@cache
def names_in(path: Path) -> frozenset[str]:
    """The names of the test functions and classes of a module."""
    tree = ast.parse(path.read_text("utf-8"))
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
    return frozenset(node.name for node in ast.walk(tree) if isinstance(node, kinds))


def statements() -> list[str]:
    """The list items of the sections that need tests."""
    found = []
    for part in re.split(r"^## ", PAGES["security.md"], flags=re.MULTILINE)[1:]:
        title, _, text = part.partition("\n")
        if title in _SECTIONS:
            found += re.findall(r"^- (?:[^\n]|\n(?!\n|- ))+", text, re.MULTILINE)
    return found


def limits() -> list[str]:
    """The rows of the tables of limits."""
    rows = re.findall(r"^\| [^\n]+$", PAGES["reference/limits.md"], re.MULTILINE)
    return [row for row in rows if not row.startswith(("| limit |", "| --- |"))]


@pytest.mark.parametrize(("page", "note", "test"), NOTES, ids=[note for _, note, _ in NOTES])
def test_a_test_that_is_named_exists(page: str, note: str, test: str) -> None:
    path, _, name = test.partition("::")
    assert (ROOT / path).is_file(), f"{page}, {note}: there is no {path}"
    assert name in names_in(ROOT / path), f"{page}, {note}: {path} has no {name}"


def test_there_are_statements_and_each_has_a_test() -> None:
    found = statements()
    assert len(found) > 80
    without = [text for text in found if not _USE.search(text)]
    assert without == [], "each needs [^note]"


def test_sections_that_need_tests_exist() -> None:
    for title in _SECTIONS:
        assert f"\n## {title}\n" in PAGES["security.md"]


def test_there_are_limits_and_each_has_a_test() -> None:
    found = limits()
    assert len(found) > 150
    assert [row for row in found if not _USE.search(row)] == []


@pytest.mark.parametrize("page", PAGES)
def test_every_note_is_used_and_defined_once(page: str) -> None:
    defined = [note for note, _ in _NOTE.findall(PAGES[page])]
    assert sorted({*_USE.findall(PAGES[page])}) == sorted(defined)
