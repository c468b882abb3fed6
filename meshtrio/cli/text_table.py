"""Borderless tables for people, without rich: importing it takes as long as the rest of `ps`."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Sequence
from typing import Any

from meshtrio.util.text import escape_unprintable

STATE_STYLES = {
    "ready": "green",
    "unready": "red",
    "failed": "bold red",
    **dict.fromkeys(("starting", "pending", "backoff", "stopping", "attached"), "yellow"),
    **dict.fromkeys(("idle", "stopped", "exited"), "dim"),
}
"""Styles of the states of instances, by rich's names."""
NUMERIC_COLUMNS = frozenset(
    (
        *("INSTANCE", "PID", "RESTARTS", "UPTIME", "CALLS/S", "FAILED/S", "MEDIAN"),
        *("P50", "P95", "P99"),
        *("IN FLIGHT", "CPU %", "MEMORY", "WEIGHT", "PRIORITY", "ENDPOINTS"),
    )
)
"""Titles of columns that are right-aligned."""
_STATE_COLUMN = "STATE"
_ANSI_CODES = {"bold": "1", "dim": "2", "red": "31", "green": "32", "yellow": "33"}
"""Parameters of SGR (ECMA-48 §8.3.117), by rich's names."""
_TAB_SIZE = 8


def print_table(columns: Sequence[str], rows: Iterable[Iterable[Any]]) -> None:
    """Print a table of texts and numbers: escaped, never truncated, coloured on terminals only."""
    for line in format_table(columns, rows, coloured=_shows_colours()):
        print(line)


def format_table(
    columns: Sequence[str], rows: Iterable[Iterable[Any]], *, coloured: bool
) -> list[str]:
    """Return the lines of a table, titles included, without trailing blanks."""
    table = [list(columns), *([_to_text(cell) for cell in row] for row in rows)]
    widths = [max(map(_cell_width, cells)) for cells in zip(*table, strict=True)]
    lines = []
    for number, row in enumerate(table):
        parts = []
        for title, text, width in zip(columns, row, widths, strict=True):
            padding = " " * (width - _cell_width(text))
            if coloured:
                text = _paint(text, title if number else None)
            parts.append(padding + text if title in NUMERIC_COLUMNS else text + padding)
        lines.append("  ".join(parts).rstrip())
    return lines


def _to_text(cell: Any) -> str:
    return escape_unprintable(str(cell)).expandtabs(_TAB_SIZE)


def _cell_width(text: str) -> int:
    """Return the number of cells that a text takes on a terminal."""
    if text.isascii():
        return len(text)
    from rich.cells import cell_len  # It knows wide and combining characters.

    return cell_len(text)


def _paint(text: str, title: str | None) -> str:
    """Add the style of a cell in the column `title`, or of a title itself if that is None."""
    style = "bold" if title is None else STATE_STYLES.get(text, "") * (title == _STATE_COLUMN)
    codes = ";".join(_ANSI_CODES[word] for word in style.split())
    return f"\x1b[{codes}m{text}\x1b[0m" if codes else text


def _shows_colours() -> bool:
    """Decide as rich does: by FORCE_COLOR, NO_COLOR, TERM, and whether stdout is a terminal."""
    if os.environ.get("NO_COLOR") or os.environ.get("TERM", "").lower() in ("dumb", "unknown"):
        return False
    return sys.stdout.isatty() or bool(os.environ.get("FORCE_COLOR"))
