"""The blocks of code of a Markdown page, and what their first lines say is to be done with them.

    ```sh                        run to its end, which has to be a good one
    ```sh fails                  run to its end, which must not be one
    ```sh ci                     run by .ci/run itself
    ```sh test=build-go          run by the page's own test, which knows it by that name; so is what
                                 is said to follow as its output
    ```sh background             run until the page is done, then ended by Ctrl-C
    ```text                      what the block before it wrote; … stands for anything
    ```text like                 the same, but words with a digit in them and blanks may differ
    ```text log                  how the log of the last command in the background begins, like that
    ```toml mesh.toml            a file
    ```toml config               part of a mesh's config: it has to be right
    ```python in=client          run with what the prelude of that name gives
    ```go from=examples/x.go     a part of that file of the repository
    ```python part=plugin.py     a part of that file in the reader's folder

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


def matches(pattern: str, text: str, *, like: bool = False) -> bool:
    """Return whether text matches a page's, ignoring ends of lines and what … stands for.

    With `like`, a word with a digit in it (a time, a pid, a path) matches any other such word, and
    blanks match any number of blanks.
    """
    convert = _like if like else _literal
    lines = [convert(line.rstrip()) for line in pattern.strip().split("\n")]
    found = "\n".join(line.rstrip() for line in text.strip().split("\n"))
    return re.fullmatch("\n".join(lines), found, re.DOTALL) is not None


def _literal(text: str) -> str:
    return re.escape(text).replace("…", ".*?")


def _like(line: str) -> str:
    words = (r"\S*\d\S*" if re.search(r"\d", word) else _literal(word) for word in line.split())
    return "[ ]*" + "[ ]+".join(words)
