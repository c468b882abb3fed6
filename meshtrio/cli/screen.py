"""What is printed for people: tables without borders, colours on terminals only, nothing cut."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from io import StringIO
from typing import TextIO

from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

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


def show(renderable: RenderableType) -> None:
    """Print it, without the blanks that a table fills its lines with."""
    text = StringIO()
    console(text).print(renderable)
    shown = "\n".join(line.rstrip() for line in text.getvalue().splitlines())
    encoding = sys.stdout.encoding or "utf-8"
    print(shown.encode(encoding, "replace").decode(encoding))


def table(columns: Iterable[str | Text]) -> Table:
    """An empty table; the columns are known by their titles."""
    made = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for column in columns:
        title = str(column).rstrip(" ▼▲")
        made.add_column(
            column, justify="right" if title in _NUMBERS else "left", no_wrap=True, overflow="fold"
        )
    return made


def state(name: str) -> Text:
    return Text(name, STATES.get(name, ""))
