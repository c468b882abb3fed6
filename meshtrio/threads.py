"""Threads beside an event loop: limits on their number, and long computations.

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

_WORK = 0.001
"""Seconds of computing between two rests."""
_REST = 0.0001
"""Seconds of a rest: enough for the loop to take the interpreter."""


class ThreadLimiter:
    """A limit on the threads of one purpose, which other purposes do not have to wait for.

    Each run of trio has a `CapacityLimiter` of its own: an abandoned thread returns its token in
    the run that started it, and the token is lost if that run has ended.
    """

    def __init__(self, max_threads: int) -> None:
        self._max_threads = max_threads
        self._run_limiter: trio.lowlevel.RunVar[trio.CapacityLimiter]
        self._run_limiter = trio.lowlevel.RunVar("thread limiter")

    def get(self) -> trio.CapacityLimiter:
        """Return the limiter of the current run."""
        try:
            return self._run_limiter.get()
        except LookupError:
            limiter = trio.CapacityLimiter(self._max_threads)
            self._run_limiter.set(limiter)
            return limiter


_limiter = ThreadLimiter(2)
"""Computations share one interpreter, so that more of them would not be faster."""


class Pace:
    """Makes a thread rest. `pace()` is to be called every now and then, at little cost; it returns
    whether the thread has rested."""

    def __init__(self) -> None:
        self._due = time.perf_counter() + _WORK

    def __call__(self) -> bool:
        if time.perf_counter() < self._due:
            return False
        time.sleep(_REST)
        self._due = time.perf_counter() + _WORK
        return True


async def compute(work: Callable[[Pace], T]) -> T:
    """Call `work` in a thread, with the pace that it is to go at.

    Returns:
        What it returns.

    Cancellation: Returns at once. The thread ends by itself, so its work has to be bounded.
    """
    return await trio.to_thread.run_sync(
        lambda: work(Pace()), abandon_on_cancel=True, limiter=_limiter.get()
    )
