"""Builds the documentation site in docs/_build/html, with the packages of the extra `docs`.

python docs/build.py            build it; warnings and broken links are errors
python docs/build.py --clean    the same, from nothing

Links are checked without a network: those to other pages and their anchors have to lead somewhere,
and those to other sites are not fetched.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Iterator
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

DOCS = Path(__file__).resolve().parent
BUILD = DOCS / "_build"
SITE = BUILD / "html"
_LINK_ATTRIBUTES = ("href", "src")


class _PageParser(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.links: list[str] = []
        self.anchors: set[str] = set()

    def handle_starttag(self, _tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name in _LINK_ATTRIBUTES and value:
                self.links.append(value)
            elif name == "id" and value:
                self.anchors.add(value)


@cache
def _parse(page: Path) -> _PageParser:
    parser = _PageParser()
    parser.feed(page.read_text("utf-8"))
    return parser


def broken_links(site: Path) -> Iterator[str]:
    """Yield the links of a site's pages that lead to no file of it, or to no anchor of a page."""
    for page in sorted(site.rglob("*.html")):
        for link in _parse(page).links:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = (page.parent / unquote(parts.path)).resolve() if parts.path else page
            if target.is_dir():
                target /= "index.html"
            anchor = unquote(parts.fragment)
            if not target.is_file():
                yield f"{page.relative_to(site)}: {link}: no such page"
            elif anchor and target.suffix == ".html" and anchor not in _parse(target).anchors:
                yield f"{page.relative_to(site)}: {link}: no such anchor"


def main() -> int:
    from sphinx.cmd.build import main as build_with_sphinx

    parser = argparse.ArgumentParser(description="Build the documentation site.")
    parser.add_argument("--clean", action="store_true", help="remove the last build first")
    if parser.parse_args().clean:
        shutil.rmtree(BUILD, ignore_errors=True)
    options = ["-W", "--keep-going", "-q", "-d", str(BUILD / "doctrees"), "-b", "html"]
    if status := build_with_sphinx([*options, str(DOCS), str(SITE)]):
        return status
    broken = [*broken_links(SITE)]
    for link in broken:
        print(link, file=sys.stderr)
    if not broken:
        print(f"the site is in {SITE}")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
