"""A spinner on stderr, if it is a terminal, while a command waits."""

from __future__ import annotations

import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio

from meshtrio.cli.escaped_stderr import unescaped_stderr
from meshtrio.util.concurrency import open_collapsing_nursery
from meshtrio.util.text import escape_unprintable

_SPINNER_DELAY = 1.0
"""Seconds until the spinner appears."""


@asynccontextmanager
async def show_spinner(text: str) -> AsyncIterator[None]:
    """Show `text` and the elapsed time during the block, if it takes long."""
    async with open_collapsing_nursery() as nursery:
        if sys.stderr.isatty():
            nursery.start_soon(_draw_spinner, text)
        yield
        nursery.cancel_scope.cancel()


async def _draw_spinner(text: str) -> None:
    began = time.monotonic()
    await trio.sleep(_SPINNER_DELAY)
    from rich.console import Console
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = SpinnerColumn(), TextColumn("{task.description}", markup=False), TimeElapsedColumn()
    console = Console(file=unescaped_stderr())
    with Progress(*columns, console=console, transient=True) as progress:
        progress.add_task(escape_unprintable(text), total=None)
        progress.tasks[0].start_time = began
        await trio.sleep_forever()
