"""Limits on worker threads, and long computations that do not starve the event loop of the GIL.

A computing thread releases the GIL only on request, after the switch interval of 5 ms. An event
loop that needs the GIL again after each system call would make a few hundred of those a second. So
a computation sleeps briefly every millisecond, and the loop waits no longer than that.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

import trio

from meshtrio.util.concurrency import PerRun

T = TypeVar("T")

_YIELD_INTERVAL = 0.001
"""Seconds of computing between two sleeps."""
_YIELD_DURATION = 0.0001
"""Seconds of a sleep, which is long enough for the event loop to take the GIL."""


class ThreadLimiter(PerRun[trio.CapacityLimiter]):
    """A limit on the threads of one purpose, which other purposes do not have to wait for.

    Each run of trio has a `CapacityLimiter` of its own: an abandoned thread returns its token in
    the run that started it, and the token is lost if that run has ended.
    """

    def __init__(self, max_threads: int) -> None:
        super().__init__(partial(trio.CapacityLimiter, max_threads))

    async def run(self, function: Callable[..., T], *args: Any) -> T:
        """Run a function in a worker thread. Raises RuntimeError if no thread can be started.

        On cancellation this returns at once, and the thread continues.
        """
        limiter = self.get()
        return await trio.to_thread.run_sync(
            function, *args, abandon_on_cancel=True, limiter=limiter
        )


_limiter = ThreadLimiter(2)
"""Computations share one GIL, so that more of them would not be faster."""


class GilYielder:
    """Releases the GIL every millisecond, if the computation calls it more often than that."""

    def __init__(self) -> None:
        self._due = time.perf_counter() + _YIELD_INTERVAL

    def __call__(self) -> bool:
        """Sleep briefly if it is time to, and return whether it was."""
        if time.perf_counter() < self._due:
            return False
        time.sleep(_YIELD_DURATION)
        self._due = time.perf_counter() + _YIELD_INTERVAL
        return True


async def run_computation(computation: Callable[[GilYielder], T]) -> T:
    """Run a computation, which calls the `GilYielder` at short intervals, in a worker thread.

    On cancellation this returns at once. The thread continues, so the computation must be bounded.
    """
    return await _limiter.run(lambda: computation(GilYielder()))
