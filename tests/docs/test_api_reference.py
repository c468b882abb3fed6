"""Each public name is on one page of the API reference, and its pages are part of the site."""

from __future__ import annotations

import importlib
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import meshtrio
from tests import ROOT

API = ROOT / "docs" / "reference" / "api"
PAGES = sorted(API.glob("*.md"))
_DIRECTIVE = re.compile(
    r"^\.\. (?:auto(?:class|exception|function|module)|py:(?:data|module|type))::"
    r" ([\w.]+)(?:\n   :module: (\w+))?$",
    re.MULTILINE,
)


def find_object(path: str) -> Any:
    """Import what a directive names: a module, or an attribute of one."""
    try:
        return importlib.import_module(path)
    except ModuleNotFoundError:
        module, _, name = path.rpartition(".")
        return getattr(find_object(module), name)


def documented_names(page: Path) -> Iterator[str]:
    for name, module in _DIRECTIVE.findall(page.read_text("utf-8")):
        yield f"{module}.{name}" if module else name


def pages_by_object() -> dict[int, list[str]]:
    found: dict[int, list[str]] = defaultdict(list)
    for page in PAGES:
        for name in documented_names(page):
            found[id(find_object(name))].append(page.name)
    return found


def public_names() -> Iterator[str]:
    """Yield the names of `meshtrio`, and those of its modules that list names."""
    yield from meshtrio.__all__
    for name in meshtrio.__all__:
        module = getattr(meshtrio, name)
        if isinstance(module, ModuleType):
            yield from (f"{name}.{each}" for each in getattr(module, "__all__", ()))


@pytest.fixture(scope="module")
def found() -> dict[int, list[str]]:
    return pages_by_object()


@pytest.mark.parametrize("name", [*public_names()])
def test_each_public_name_is_on_one_page(name: str, found: dict[int, list[str]]) -> None:
    assert len(found[id(find_object(f"meshtrio.{name}"))]) == 1


def test_public_names_are_documented_by_their_public_name() -> None:
    public = {id(find_object(f"meshtrio.{name}")): name for name in public_names()}
    modules = tuple(f"meshtrio.{name}" for name in ("config", "mesh", "plugin"))
    for page in PAGES:
        for name in documented_names(page):
            module = name.rpartition(".")[0]
            if id(find_object(name)) in public:
                assert module in ("meshtrio", *modules), f"{page.name}: {name}"


@pytest.mark.parametrize("page", [page.name for page in PAGES])
def test_each_page_has_an_example(page: str) -> None:
    assert "```python in=" in (API / page).read_text("utf-8")


def test_the_index_lists_the_pages() -> None:
    index = (API / "index.md").read_text("utf-8")
    listed = index.partition("```{toctree}")[2].partition("```")[0].split()[1:]
    assert sorted(listed) == sorted(page.stem for page in PAGES if page.stem != "index")
