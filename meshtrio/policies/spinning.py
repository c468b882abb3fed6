"""Whether whoever waits for bytes looks again for a while before it goes to sleep.

To be woken costs more than a small call takes: the core has gone idle, on a virtual machine perhaps
to another guest, and its caches are cold. Where answers come within that time anyway, who looks
again and again has them in half the time, and takes no more of the processor for a call than who
sleeps. Go's scheduler does so, and Linux for sockets (SO_BUSY_POLL) and virtual processors (halt
polling), by how long was waited before, as here.
"""

from __future__ import annotations

LONGEST = 0.0002
"""Seconds that it looks; what takes longer is waited for asleep."""
_PRICE = 16
"""Of a look in vain, in waits that were short."""


class Spinning:
    """A look in vain has to be earned by waits that were short before: of the time of a connection
    that rests now and then little is lost, and of one that rests most of the time nothing."""

    __slots__ = ("_earned",)

    def __init__(self) -> None:
        self._earned = 0

    @property
    def pays(self) -> bool:
        """The next wait is likely a short one."""
        return self._earned >= _PRICE

    def waited(self, seconds: float, *, spun: bool) -> None:
        """Something came after so many seconds, in which it was looked for or not."""
        if seconds <= LONGEST:
            self._earned = min(2 * _PRICE, self._earned + 1)
        elif spun:
            self._earned -= _PRICE
