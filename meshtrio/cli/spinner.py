"""Somebody who waits sees that it goes on: a spinner on stderr, where that is a terminal."""

from __future__ import annotations

import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio

from meshtrio.cli.escaping import terminal_of_stderr
from meshtrio.structured import open_nursery_of_one
from meshtrio.texts import visible

_SOON = 1.0
"""Seconds within which nobody minds to wait."""


@asynccontextmanager
async def spinning(text: str) -> AsyncIterator[None]:
    """Show the text and the seconds that have passed during the block, if it takes long."""
    async with open_nursery_of_one() as nursery:
        if sys.stderr.isatty():
            nursery.start_soon(_spin, text)
        yield
        nursery.cancel_scope.cancel()


async def _spin(text: str) -> None:
    began = time.monotonic()
    await trio.sleep(_SOON)
    from rich.console import Console
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = SpinnerColumn(), TextColumn("{task.description}", markup=False), TimeElapsedColumn()
    console = Console(file=terminal_of_stderr())
    with Progress(*columns, console=console, transient=True) as progress:
        progress.add_task(visible(text), total=None)
        progress.tasks[0].start_time = began
        await trio.sleep_forever()
