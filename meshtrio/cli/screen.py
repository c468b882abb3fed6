"""What is printed for people: tables without borders, colours on terminals only, nothing cut."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from io import StringIO
from typing import Any, TextIO

from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from meshtrio.texts import visible

_WIDEST = 100_000
STATES = {
    "ready": "green",
    "starting": "yellow",
    "pending": "yellow",
    "backoff": "yellow",
    "stopping": "yellow",
    "unready": "red",
    "failed": "bold red",
    "stopped": "dim",
    "exited": "dim",
}
_NUMBERS = frozenset(
    ("INSTANCE", "PID", "RESTARTS", "UPTIME", "CALLS/S", "FAILED/S", "MEDIAN", "P99", "IN FLIGHT")
) | {"CPU %", "MEMORY", "WEIGHT", "PRIORITY"}


def is_terminal() -> bool:
    return sys.stdout.isatty()


def console(file: TextIO | None = None, *, live: bool = False) -> Console:
    """As stdout is, whether it writes there or to a file. Nothing is taken for markup.

    Lines are as long as they are, and a terminal breaks those that are too long for it; so a path
    that is copied from there is whole. `live` is for what has to fit on the screen.
    """
    return Console(
        file=file or sys.stdout,
        force_terminal=True if is_terminal() else None,
        width=None if live else _WIDEST,
        markup=False,
        highlight=False,
        emoji=False,
    )


class _Buffer(StringIO):
    """Text for stdout: rich draws with ASCII if the encoding has nothing else."""

    encoding = property(lambda _: sys.stdout.encoding or "utf-8")


class _Table(Table):
    """A table that shows strings as they are: neither markup nor control characters count."""

    def add_row(self, *cells: Any, **options: Any) -> None:
        super().add_row(
            *(text(each) if isinstance(each, str) else each for each in cells), **options
        )


def text(shown: str, style: str = "") -> Text:
    """Return text of others for the screen."""
    return Text(visible(shown), style)


def show(renderable: RenderableType) -> None:
    """Print it, without the blanks that a table fills its lines with."""
    buffer = _Buffer()
    console(buffer).print(renderable)
    print("\n".join(line.rstrip() for line in buffer.getvalue().split("\n")[:-1]))


def table(columns: Iterable[str | Text]) -> Table:
    """An empty table; the columns are known by their titles."""
    made = _Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for column in columns:
        title = str(column).rstrip(" ▼▲")
        made.add_column(
            column, justify="right" if title in _NUMBERS else "left", no_wrap=True, overflow="fold"
        )
    return made


def state(name: str) -> Text:
    return text(name, STATES.get(name, ""))
