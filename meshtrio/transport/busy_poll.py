"""Whether whoever waits for bytes looks again for a while before it goes to sleep.

To be woken costs more than a small call takes: the core has gone idle, on a virtual machine perhaps
to another guest, and its caches are cold. Where answers come within that time anyway, who looks
again and again has them in half the time, and takes no more of the processor for a call than who
sleeps. Go's scheduler does so, and Linux for sockets (SO_BUSY_POLL) and virtual processors (halt
polling), by how long was waited before, as here.
"""

from __future__ import annotations

MAX_SPIN = 0.0002
"""Seconds that it looks; what takes longer is waited for asleep."""
_MISS_COST = 16
"""Of a look in vain, in waits that were short."""


class BusyPoll:
    """A look in vain has to be earned by waits that were short before: of the time of a connection
    that rests now and then little is lost, and of one that rests most of the time nothing."""

    __slots__ = ("_credits",)

    def __init__(self) -> None:
        self._credits = 0

    @property
    def is_worthwhile(self) -> bool:
        """The next wait is likely a short one."""
        return self._credits >= _MISS_COST

    def record_wait(self, seconds: float, *, polled: bool) -> None:
        """Something came after so many seconds, in which it was looked for or not."""
        if seconds <= MAX_SPIN:
            self._credits = min(2 * _MISS_COST, self._credits + 1)
        elif polled:
            self._credits -= _MISS_COST
