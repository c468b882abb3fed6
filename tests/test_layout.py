"""The layout of tests and docs: shared helpers are in tests/support, each term is defined once."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

from tests import ROOT


def _imported_modules(path: Path) -> Iterator[tuple[int, str]]:
    """Yield the line and the dotted name of all that a file imports, at any depth."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            module = "." * node.level + (node.module or "")
            yield node.lineno, module
            for alias in node.names:
                yield node.lineno, f"{module}.{alias.name}"


def _is_collected(module: str) -> bool:
    """Decide whether pytest collects a module, which then holds tests and fixtures alone."""
    return any(part == "conftest" or part.startswith("test_") for part in module.split(".")[-2:])


def test_no_module_imports_a_test_module() -> None:
    found = [
        f"{path.relative_to(ROOT)}:{line}: {module}"
        for path in sorted((ROOT / "tests").rglob("*.py"))
        for line, module in _imported_modules(path)
        if module.startswith(("tests.", ".")) and _is_collected(module)
    ]
    assert not found, "move what is shared to tests/support"


def test_each_term_of_the_glossary_is_defined_once() -> None:
    rows = (ROOT / "docs" / "glossary.md").read_text().splitlines()
    terms = [row.split("|")[1].strip().lower() for row in rows if row.startswith("| ")][2:]
    assert terms == sorted(set(terms))
