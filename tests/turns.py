"""How long an event loop computes without letting others have a turn, in CPU time of its thread:
what else the machine does is no part of it."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import attrs
import trio

from meshtrio.structured import open_nursery_of_one


@attrs.define
class Turns:
    longest: float = 0.0
    """Seconds of CPU time between two turns of the task that looks."""


@asynccontextmanager
async def watching_turns() -> AsyncIterator[Turns]:
    """Look at every turn of the loop during the block."""
    turns = Turns()

    async def look() -> None:
        before = time.thread_time()
        while True:
            await trio.lowlevel.checkpoint()
            now = time.thread_time()
            turns.longest = max(turns.longest, now - before)
            before = now

    async with open_nursery_of_one() as nursery:
        nursery.start_soon(look)
        yield turns
        nursery.cancel_scope.cancel()


def cpu_time_of(work: Callable[[], object]) -> float:
    """Seconds of CPU time that a computation takes when it is done in one go."""
    before = time.thread_time()
    work()
    return time.thread_time() - before
