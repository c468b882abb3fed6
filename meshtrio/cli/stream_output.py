"""Options and output of commands that print streams: events, logs, calls."""

from __future__ import annotations

import math
import re
import sys
import time
from collections.abc import Callable
from datetime import datetime

import click

from meshtrio.util.text import escape_unprintable

_ALL_ENTRIES = 2**32 - 1
_DEFAULT_LAST_WHEN_FOLLOWING = 10
_DURATION = re.compile(r"(?:(\d+)d)?(?:(\d+)h)?(?:(\d+)m)?(?:(\d+(?:\.\d+)?)s)?")
_MIN_EPOCH_TIME = 1e9
"""A plain number from here on is seconds since the epoch, as in the JSON output."""

follow_option = click.option(
    "-f", "--follow", is_flag=True, help="Continue with new entries, until Ctrl-C."
)
last_option = click.option(
    "-n",
    "--last",
    "last",
    type=click.IntRange(0, _ALL_ENTRIES),
    metavar="N",
    help="Start with the last N; by default all that are kept, or 10 with --follow.",
)


def count_of_past_entries(last: int | None, *, follow: bool, since: float = 0.0) -> int:
    """Return the number of past entries to print."""
    if last is not None:
        return last
    return _DEFAULT_LAST_WHEN_FOLLOWING if follow and not since else _ALL_ENTRIES


def parse_since(ctx: click.Context, param: click.Parameter, value: str | None) -> float:
    """Parse `5m`, an RFC 3339 time, or seconds to seconds since the epoch; 0.0 for None."""
    if value is None:
        return 0.0
    found = _parse_time(value, time.time())
    if found is None:
        raise click.BadParameter(
            f"invalid time {value!r}: write 5m or 1h30m (ago), seconds, or 2026-01-31T12:00:00Z",
            ctx,
            param,
        )
    return found


def _parse_time(text: str, now: float) -> float | None:
    try:
        seconds = float(text)
    except ValueError:
        pass
    else:
        found = seconds if seconds >= _MIN_EPOCH_TIME else now - seconds
        return found if math.isfinite(found) else None
    span = _DURATION.fullmatch(text)
    if span and text:
        days, hours, minutes, rest = (float(part or 0) for part in span.groups())
        return now - (((days * 24 + hours) * 60 + minutes) * 60 + rest)
    try:
        return datetime.fromisoformat(text).timestamp()
    except ValueError:
        return None


LEVEL_STYLES = {"WARNING": "yellow", "ERROR": "red", "CRITICAL": "bold red"}
"""The styles of levels above INFO."""

StyledText = tuple[str, str]
"""A text, and its style on a terminal."""


def make_line_printer(*, flush: bool) -> Callable[..., None]:
    """Return a function that prints a line made of `StyledText`s. `flush`: after each line.

    Control characters, a plugin's colours included, are escaped, on terminals and elsewhere.
    """
    if not sys.stdout.isatty():
        return lambda *parts: print(
            escape_unprintable("".join(text for text, _ in parts)), flush=flush
        )
    from rich.text import Text

    from meshtrio.cli import rich_output

    console = rich_output.make_console()

    def show(*parts: StyledText) -> None:
        line = Text()
        for text, style in parts:
            line.append(escape_unprintable(text), style)
        console.print(line, soft_wrap=True)

    return show
