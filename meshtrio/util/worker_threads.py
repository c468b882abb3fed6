"""Long computations in a worker thread that does not starve the event loop of the GIL.

A computing thread releases the GIL only on request, after the switch interval of 5 ms. An event
loop that needs the GIL again after each system call would make a few hundred of those a second. So
a computation sleeps briefly every millisecond, and the loop waits no longer than that.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

import trio

T = TypeVar("T")

_YIELD_INTERVAL = 0.001
"""Seconds of computing between two sleeps."""
_YIELD_DURATION = 0.0001
"""Seconds of a sleep, which is long enough for the event loop to take the GIL."""
_MAX_THREADS = 2
"""Maximum number of threads; they share one GIL, so that more would not be faster. They have a
limiter of their own, so that threads that start processes never wait for them."""
_thread_limiter = trio.CapacityLimiter(_MAX_THREADS)


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
    return await trio.to_thread.run_sync(
        lambda: computation(GilYielder()), abandon_on_cancel=True, limiter=_thread_limiter
    )
