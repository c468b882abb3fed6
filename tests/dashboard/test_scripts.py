"""The scripts of the dashboard: their pure parts by node, and what its files refer to."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests import ROOT

_STATIC = ROOT / "meshtrio" / "dashboard" / "static"
_TESTS = ROOT / "tests" / "dashboard" / "scripts"
_OWN_SCRIPTS = sorted(p for p in _STATIC.rglob("*.js") if "vendor" not in p.parts)

needs_node = pytest.mark.skipif(shutil.which("node") is None, reason="there is no node")


@needs_node
@pytest.mark.parametrize("test", sorted(_TESTS.glob("*.mjs")), ids=lambda path: path.stem)
def test_pure_parts(test: Path, tmp_path: Path) -> None:
    # Browsers take the scripts for modules since the page says so, node since a file does.
    (tmp_path / "package.json").write_text('{"type": "module"}')
    shutil.copytree(_STATIC, tmp_path / "static")
    copy = shutil.copy(test, tmp_path / "tests.mjs")
    source = Path(copy).read_text().replace("'../static/", "'./static/")
    Path(copy).write_text(source)
    result = subprocess.run(
        ["node", "--test", copy], capture_output=True, text=True, timeout=60, check=False
    )
    assert result.returncode == 0, result.stdout + result.stderr


def _imports(script: Path) -> set[Path]:
    """Return the files that a module imports statically."""
    found = re.findall(r"""from\s*['"](\.[^'"]+)['"]""", script.read_text())
    return {(script.parent / each).resolve() for each in found}


def _closure(script: Path) -> set[Path]:
    """Return all that a module needs before it runs."""
    known: set[Path] = set()
    waiting = {script}
    while waiting:
        known |= waiting
        waiting = set().union(*map(_imports, waiting)) - known
    return known


@pytest.mark.parametrize("script", _OWN_SCRIPTS, ids=lambda path: path.name)
def test_scripts_import_what_there_is(script: Path) -> None:
    dynamic = re.findall(r"""import\(['"](\.[^'"]+)['"]\)""", script.read_text())
    for path in _imports(script) | {(script.parent / each).resolve() for each in dynamic}:
        assert path.is_file(), path


def test_all_of_the_first_view_is_preloaded() -> None:
    """A browser that finds imports one by one needs a round trip for each level of them."""
    page = (_STATIC / "index.html").read_text()
    preloaded = re.findall(r'<link rel="modulepreload" href="/assets/([^"]+)">', page)
    needed = _closure(_STATIC / "app.js") | _closure(_STATIC / "views" / "tree.js")
    needed -= {_STATIC / "app.js"}
    assert sorted(preloaded) == sorted(str(path.relative_to(_STATIC)) for path in needed)
    for asset in re.findall(r'(?:href|src)="/assets/([^"]+)"', page):
        assert (_STATIC / asset).is_file(), asset


def test_the_page_has_nothing_inline() -> None:
    """The Content-Security-Policy allows no inline script, no style attributes and no eval."""
    page = (_STATIC / "index.html").read_text()
    assert not re.search(r"<style|<script(?![^>]*\ssrc=)|\sstyle=|\son\w+=", page)
    for script in _STATIC.rglob("*.js"):
        assert not re.search(r"\beval\(|new Function\(", script.read_text()), script


@pytest.mark.parametrize("script", _OWN_SCRIPTS, ids=lambda path: path.name)
def test_text_never_becomes_markup(script: Path) -> None:
    forbidden = (
        r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|dangerouslySet|style=\"|DOMParser"
    )
    assert not re.search(forbidden, script.read_text())


def test_vendored_libraries_have_licences() -> None:
    vendor = _STATIC / "vendor"
    readme = (vendor / "README.md").read_text()
    for path in vendor.iterdir():
        assert path.name == "README.md" or f"`{path.name}`" in readme, path
