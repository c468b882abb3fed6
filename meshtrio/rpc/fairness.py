"""Fair use of the event loop: how long one peer's work may keep the others waiting.

The loop runs in passes: all tasks that can run do, then the kernel is asked for more. A pass takes
as long as the work of all its tasks, so that a peer with many connections, each with little work,
would slow all others down. Therefore

- a task works for one slice, `EventLoopShare.slice`, and then waits for its peer's `turn`;
- of each peer one task gets a turn in each pass;
- the reading of a peer that has used the loop for half of the time waits for turns as well, however
  little each of its connections brings.

A pass then takes a slice of each such peer at the most, and what ordinary peers have to do. Nothing
here costs anything as long as peers send little at once.
"""

from __future__ import annotations

from collections import OrderedDict
from time import perf_counter
from typing import Any, ClassVar

import trio

_TIME_SLICE = 0.001
"""Seconds of work in one pass."""
_MIN_TIME_SLICE = 0.0001
_REFILL_RATE = 0.5
"""Part of the time that a peer may use before its reading waits for turns."""
_BURST = 0.002
"""Seconds that it may use at once before that."""
WAKE_COST = 0.00003
"""Seconds that it takes to resume a task and have it write, as charged for a window update."""


class EventLoopShare:
    """The use that one peer, with all its connections, makes of the event loop."""

    __slots__ = ("_charged_at", "_is_turn_taken", "_waiting_tasks", "remaining")

    _waiting_peers: ClassVar[int] = 0
    """Number of peers that have a task waiting for a turn."""

    def __init__(self) -> None:
        self.remaining = _BURST
        """Seconds that the peer may use before its reading waits for turns, as of the last charge;
        below 0 charge nothing to find out."""
        self._charged_at = 0.0
        self._is_turn_taken = False
        self._waiting_tasks: OrderedDict[trio.lowlevel.Task, None] = OrderedDict()

    @property
    def time_slice(self) -> float:
        """Seconds that a task may work before it waits for a turn."""
        return max(_TIME_SLICE / max(EventLoopShare._waiting_peers, 1), _MIN_TIME_SLICE)

    def charge(self, seconds: float) -> bool:
        """Count work done for the peer; true if its reading has to wait for turns."""
        now = perf_counter()
        refilled = self.remaining + (now - self._charged_at) * _REFILL_RATE
        self.remaining = min(refilled, _BURST) - seconds
        self._charged_at = now
        return self.remaining < 0

    async def wait_for_turn(self) -> None:
        """Wait for the next pass of the loop in which it is this task's turn.

        Cancellation: a checkpoint, also if no other task of the peer waits.
        """
        if self._is_turn_taken:
            task = trio.lowlevel.current_task()
            self._waiting_tasks[task] = None

            def abort(_: Any) -> trio.lowlevel.Abort:
                del self._waiting_tasks[task]
                return trio.lowlevel.Abort.SUCCEEDED

            await trio.lowlevel.wait_task_rescheduled(abort)
            self._wake_next()
            return
        self._is_turn_taken = True
        EventLoopShare._waiting_peers += 1
        try:
            await trio.lowlevel.checkpoint()
        finally:
            self._wake_next()

    def _wake_next(self) -> None:
        """Let the next task have its turn, which is in the next pass."""
        if self._waiting_tasks:
            task, _ = self._waiting_tasks.popitem(last=False)
            trio.lowlevel.reschedule(task)
        else:
            self._is_turn_taken = False
            EventLoopShare._waiting_peers -= 1
