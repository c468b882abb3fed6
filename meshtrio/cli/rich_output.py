"""Output for people, by rich: trees, and the tables of `top`; others are by `text_table`."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any

from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from meshtrio.cli.text_table import NUMERIC_COLUMNS, STATE_STYLES
from meshtrio.util.text import escape_unprintable

_UNLIMITED_WIDTH = 100_000


def make_console(*, live: bool = False) -> Console:
    """Make a console with the colours of stdout, without markup.

    Lines are not wrapped, so that a path that is copied from a terminal is whole. `live` limits
    them to the width of the screen.
    """
    return Console(
        file=sys.stdout,
        force_terminal=True if sys.stdout.isatty() else None,
        width=None if live else _UNLIMITED_WIDTH,
        markup=False,
        highlight=False,
        emoji=False,
    )


class _EscapingTable(Table):
    """A table that shows values literally, with control characters escaped."""

    def add_row(self, *cells: Any, **options: Any) -> None:
        shown = (each if isinstance(each, Text) else make_text(str(each)) for each in cells)
        super().add_row(*shown, **options)


def make_text(content: str, style: str = "") -> Text:
    """Return text with control characters escaped."""
    return Text(escape_unprintable(content), style)


def print_renderable(renderable: RenderableType) -> None:
    """Print a renderable, without trailing blanks."""
    console = make_console()
    with console.capture() as captured:
        console.print(renderable)
    print("\n".join(line.rstrip() for line in captured.get().split("\n")[:-1]))


def make_table(columns: Iterable[str | Text]) -> Table:
    """Make an empty table. Columns of numbers, known by their titles, are right-aligned."""
    made = _EscapingTable(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for column in columns:
        title = str(column).rstrip(" ▼▲")
        side: Any = "right" if title in NUMERIC_COLUMNS else "left"
        made.add_column(column, justify=side, no_wrap=True, overflow="fold")
    return made


def make_state_text(name: str) -> Text:
    return make_text(name, STATE_STYLES.get(name, ""))
