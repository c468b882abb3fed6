"""What docs/build.py finds in a built site."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from tests import ROOT

PAGE = """
<h2 id="a b">A</h2><a href="#a%20b">here</a><a href="#x">nowhere</a>
<a href="sub/other.html#top">there</a><a href="sub/other.html#x">no anchor</a>
<a href="sub/">index</a>
<a href="none.html">no page</a><a href="https://example.com/">elsewhere</a><img src="none.png">
"""
BROKEN = [
    "index.html: #x: no such anchor",
    "index.html: sub/other.html#x: no such anchor",
    "index.html: none.html: no such page",
    "index.html: none.png: no such page",
]


def test_broken_links_are_found(tmp_path: Path) -> None:
    spec = importlib.util.spec_from_file_location("docs_build", ROOT / "docs" / "build.py")
    assert spec is not None
    assert spec.loader is not None
    build = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(build)

    (tmp_path / "sub").mkdir()
    (tmp_path / "index.html").write_text(PAGE)
    (tmp_path / "sub" / "index.html").write_text('<a href="../index.html">up</a>')
    (tmp_path / "sub" / "other.html").write_text('<p id="top"></p>')
    assert [*build.broken_links(tmp_path)] == BROKEN
