"""Fair use of the event loop by peers.

The loop runs in passes: all runnable tasks run, then the kernel is polled. A pass takes as long as
the work of all its tasks, so a peer with many connections, each with little work, would slow down
all others. Therefore

- a task works for one time slice, `EventLoopShare.time_slice`, and then calls `wait_for_turn`;
- one task of each peer gets a turn in each pass;
- a peer that has used the loop for half of the time waits for turns before it is read from, too.

A pass then takes at most one slice of each such peer, in addition to the work of ordinary peers.
Nothing here costs anything while peers send little at once.
"""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter
from typing import ClassVar

import trio

_MAX_TIME_SLICE = 0.001
_MIN_TIME_SLICE = 0.0001
_REFILL_RATE = 0.5
"""Fraction of the time that a peer may use before reading from it waits for turns."""
_BURST = 0.002
WAKE_COST = 0.00003
"""Seconds that resuming a task for a write takes, charged for each window update."""


class EventLoopShare:
    """The use that one peer makes of the event loop, with all its connections."""

    __slots__ = (
        "_charged_at",
        "_clock",
        "_is_turn_taken",
        "_waiting_tasks",
        "burst",
        "max_time_slice",
        "min_time_slice",
        "remaining",
    )

    _waiting_peers: ClassVar[int] = 0
    """Number of peers that have a task waiting for a turn."""

    def __init__(self, clock: Callable[[], float] = perf_counter) -> None:
        self.max_time_slice = _MAX_TIME_SLICE
        """Seconds of work of the peer in one pass, divided among all peers with waiting tasks."""
        self.min_time_slice = _MIN_TIME_SLICE
        """Seconds of work in one pass, however many peers have waiting tasks."""
        self.burst = _BURST
        """Seconds that the peer may use at once before reading from it waits for turns."""
        self._clock = clock
        self.remaining = _BURST
        """Seconds that the peer may use before reading from it waits, as of the last charge.

        If it is negative, `charge(0.0)` says whether it still is.
        """
        self._charged_at = 0.0
        self._is_turn_taken = False
        self._waiting_tasks = trio.lowlevel.ParkingLot()

    @property
    def time_slice(self) -> float:
        """Seconds that a task may work before it waits for a turn."""
        return max(self.max_time_slice / max(self._waiting_peers, 1), self.min_time_slice)

    def charge(self, seconds: float) -> bool:
        """Count work done for the peer; return whether reading from it must wait for turns."""
        now = self._clock()
        refilled = self.remaining + (now - self._charged_at) * _REFILL_RATE
        self.remaining = min(refilled, self.burst) - seconds
        self._charged_at = now
        return self.remaining < 0

    async def wait_for_turn(self) -> None:
        """Wait for the next pass of the loop in which it is this task's turn.

        Cancellation: always a checkpoint, even if no other task of the peer waits.
        """
        if self._is_turn_taken:
            await self._waiting_tasks.park()
            self._wake_next()
            return
        self._is_turn_taken = True
        EventLoopShare._waiting_peers += 1
        try:
            await trio.lowlevel.checkpoint()
        finally:
            self._wake_next()

    def _wake_next(self) -> None:
        """Give the turn of the next pass to the next task."""
        if self._waiting_tasks:
            self._waiting_tasks.unpark()
        else:
            self._is_turn_taken = False
            EventLoopShare._waiting_peers -= 1
