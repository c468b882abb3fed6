"""Coalescing the writes of calls that one read has woken into few system calls."""

from __future__ import annotations

from collections.abc import Callable

import trio

_MAX_WRITE_DELAY = 0.0005
"""Maximum time, in seconds, for which a write is delayed."""


class WriteCoalescer:
    """Delays the writes of a connection while several of its tasks are about to write."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self.max_delay = _MAX_WRITE_DELAY
        """Maximum time, in seconds, for which a write is delayed."""
        self.expected_writers = 0
        """Number of tasks whose writes are coalesced; 0 if writes are not delayed."""
        self._writers_seen = 0
        self._flush_at = 0.0
        """Time at which the writes of fewer tasks are flushed."""

    async def run(self, count: int, flush: Callable[[], None]) -> None:
        """Coalesce the writes of tasks that were just woken, then flush.

        It takes two passes of the scheduler, in which a woken task runs; slower ones write alone.

        Args:
            count: Number of tasks whose writes are flushed together.
            flush: Writes what is pending.
        """
        self.expected_writers, self._writers_seen = count, 0
        self._flush_at = self._now() + self.max_delay
        try:
            await trio.lowlevel.cancel_shielded_checkpoint()
            await trio.lowlevel.cancel_shielded_checkpoint()
        finally:
            self.expected_writers = 0
            flush()

    def should_delay(self) -> bool:
        """Count a write, and return whether to delay it because others are expected."""
        self._writers_seen += 1
        now = self._now()
        if self._writers_seen < self.expected_writers and now < self._flush_at:
            return True
        self._writers_seen, self._flush_at = 0, now + self.max_delay
        return False
