"""The blocks of code of a Markdown page, and what their first lines say is to be done with them.

    ```sh                        run to its end, which has to be a good one
    ```sh fails                  run to its end, which must not be one
    ```sh ci                     run by .ci/run itself
    ```sh background             run until the page is done, then ended by Ctrl-C
    ```text                      what the block before it wrote; … stands for anything
    ```toml mesh.toml            a file
    ```toml config               part of a mesh's config: it has to be right
    ```python in=client          run with what the prelude of that name gives
    ```go from=examples/x.go     a part of that file of the repository

Renderers show none of what follows the language. Blocks such as ```{eval-rst} are directives of
Sphinx, and nothing is done with them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import attrs

_BLOCK = re.compile(r"^```(\S+)(?: ([^\n]*))?\n(.*?)^```$", re.DOTALL | re.MULTILINE)


@attrs.frozen
class Block:
    """`line` is that of its first line in the page."""

    line: int
    language: str
    attributes: str
    text: str


def parse_blocks(page: Path) -> Iterator[Block]:
    content = page.read_text("utf-8")
    for found in _BLOCK.finditer(content):
        if found[1].startswith("{"):
            continue
        line = content.count("\n", 0, found.start()) + 1
        yield Block(line, found[1], (found[2] or "").strip(), found[3])


def matches(pattern: str, text: str) -> bool:
    """Return whether text matches a page's, ignoring ends of lines and what … stands for."""
    lines = [re.escape(line.rstrip()).replace("…", ".*?") for line in pattern.strip().split("\n")]
    found = "\n".join(line.rstrip() for line in text.strip().split("\n"))
    return re.fullmatch("\n".join(lines), found, re.DOTALL) is not None
