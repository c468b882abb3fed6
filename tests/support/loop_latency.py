"""How long an event loop computes without letting others have a turn, in CPU time of its thread:
neither what else the machine does nor collecting what earlier tests have left is part of it."""

from __future__ import annotations

import gc
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager

import attrs
import trio

from meshtrio.util.concurrency import open_collapsing_nursery


@attrs.define
class LoopLatency:
    max_cpu_time: float = 0.0
    """Seconds of CPU time between two turns of the task that looks."""


@asynccontextmanager
async def measure_loop_latency() -> AsyncIterator[LoopLatency]:
    """Measure every turn of the loop during the block."""
    turns = LoopLatency()

    async def look(task_status: trio.TaskStatus[None]) -> None:
        before = time.thread_time()
        task_status.started()
        while True:
            await trio.lowlevel.checkpoint()
            now = time.thread_time()
            turns.max_cpu_time = max(turns.max_cpu_time, now - before)
            before = now

    with freeze_existing_objects():
        async with open_collapsing_nursery() as nursery:
            await nursery.start(look)
            yield turns
            for _ in range(2):  # The order within a pass of the loop is random.
                await trio.lowlevel.checkpoint()
            nursery.cancel_scope.cancel()


@contextmanager
def freeze_existing_objects() -> Iterator[None]:
    """Keep the garbage collector from what exists before the block.

    After some thousand tests one collection of all objects takes a quarter of a second.
    """
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def measure_cpu_time(work: Callable[[], object]) -> float:
    """Return the seconds of CPU time that a computation takes in one go."""
    before = time.thread_time()
    work()
    return time.thread_time() - before
