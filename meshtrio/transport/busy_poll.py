"""Busy polling of a socket before the process sleeps.

Being woken costs more than a small call: the core has become idle, on a virtual machine perhaps in
favour of another guest, and its caches are cold. If responses arrive within that time, polling gets
them in half the time, and uses no more of the processor per call. Go's scheduler does so, and Linux
for sockets (SO_BUSY_POLL) and virtual processors (halt polling), depending on previous waits.
"""

from __future__ import annotations

MAX_SPIN = 0.0002
"""Maximum time of a poll, in seconds."""
_MISS_COST = 16
"""Number of credits that a poll without success costs."""


class BusyPoll:
    """Decides whether busy polling is worthwhile.

    A connection earns one credit for each wait shorter than `max_spin` and pays `_MISS_COST` for a
    poll that finds nothing, so that a mostly idle connection never polls.
    """

    __slots__ = ("_credits", "max_spin")

    def __init__(self, max_spin: float = MAX_SPIN) -> None:
        self.max_spin = max_spin
        """Maximum time of a poll, in seconds."""
        self._credits = 0

    @property
    def is_worthwhile(self) -> bool:
        """Whether the next wait is probably short."""
        return self._credits >= _MISS_COST

    def record_wait(self, seconds: float, *, polled: bool) -> None:
        """Record the duration of a wait, and whether it began with a poll."""
        if seconds <= self.max_spin:
            self._credits = min(2 * _MISS_COST, self._credits + 1)
        elif polled:
            self._credits -= _MISS_COST
