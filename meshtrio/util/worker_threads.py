"""Long computations next to an event loop: in a thread, which lets the loop go first.

A thread that computes gives the interpreter up only when it is asked to, 5 ms later. A loop that
wants it back after each system call gets ahead by some hundred of those a second. So what computes
rests on its own each millisecond, and the loop waits no longer than that.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

import trio

T = TypeVar("T")

_YIELD_INTERVAL = 0.001
"""Seconds of computing between two rests."""
_YIELD_DURATION = 0.0001
"""Seconds of a rest: enough for the loop to take the interpreter."""
_MAX_THREADS = 2
"""They share one interpreter, so that more of them gain nothing. Threads of their own: those that
processes are started from must not have to wait for these."""
_thread_limiter = trio.CapacityLimiter(_MAX_THREADS)


class GilYielder:
    """Makes a thread rest. `pace()` is to be called every now and then, at little cost; it returns
    whether the thread has rested."""

    def __init__(self) -> None:
        self._due = time.perf_counter() + _YIELD_INTERVAL

    def __call__(self) -> bool:
        if time.perf_counter() < self._due:
            return False
        time.sleep(_YIELD_DURATION)
        self._due = time.perf_counter() + _YIELD_INTERVAL
        return True


async def run_computation(computation: Callable[[GilYielder], T]) -> T:
    """Call `work` in a thread, with the pace that it is to go at.

    Returns:
        What it returns.

    Cancellation: Returns at once. The thread ends by itself, so its work has to be bounded.
    """
    return await trio.to_thread.run_sync(
        lambda: computation(GilYielder()), abandon_on_cancel=True, limiter=_thread_limiter
    )
