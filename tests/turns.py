"""How long an event loop computes without letting others have a turn, in CPU time of its thread:
neither what else the machine does nor collecting what earlier tests have left is part of it."""

from __future__ import annotations

import gc
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager

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

    async def look(task_status: trio.TaskStatus[None]) -> None:
        before = time.thread_time()
        task_status.started()
        while True:
            await trio.lowlevel.checkpoint()
            now = time.thread_time()
            turns.longest = max(turns.longest, now - before)
            before = now

    with earlier_objects_frozen():
        async with open_nursery_of_one() as nursery:
            await nursery.start(look)
            yield turns
            for _ in range(2):  # The order within a pass of the loop is random.
                await trio.lowlevel.checkpoint()
            nursery.cancel_scope.cancel()


@contextmanager
def earlier_objects_frozen() -> Iterator[None]:
    """Keep the garbage collector from what exists before the block.

    After some thousand tests one collection of all objects takes a quarter of a second.
    """
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def cpu_time_of(work: Callable[[], object]) -> float:
    """Seconds of CPU time that a computation takes when it is done in one go."""
    before = time.thread_time()
    work()
    return time.thread_time() - before
