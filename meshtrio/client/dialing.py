"""How much connecting the channels of a process do at once.

A registry may list any number of endpoints that nothing listens at. Each costs its clients an
attempt to connect again and again, so attempts are limited in total: those under way, and those
made again for endpoints that programs or the config have registered.
"""

from __future__ import annotations

import trio

_MAX_LOCAL = 16
"""Attempts on Unix sockets, which take no time: as many are made in one turn of the loop."""
_MAX_REMOTE = 64
"""Attempts across a network."""
_RETRIES_PER_SECOND = 100.0
"""An attempt costs about 0.15 ms of a core."""
_RETRY_BURST = 100


class DialLimiter:
    """One for all subchannels of a pool."""

    def __init__(self) -> None:
        self._local = trio.CapacityLimiter(_MAX_LOCAL)
        self._remote = trio.CapacityLimiter(_MAX_REMOTE)
        self._next_retry = 0.0

    def slot(self, *, local: bool) -> trio.CapacityLimiter:
        """Return what is held while connecting."""
        return self._local if local else self._remote

    def retry_at(self, now: float) -> float:
        """Reserve a time for an attempt that is made again, at or after `now` (seconds)."""
        at = max(self._next_retry, now - _RETRY_BURST / _RETRIES_PER_SECOND)
        self._next_retry = at + 1 / _RETRIES_PER_SECOND
        return max(at, now)
