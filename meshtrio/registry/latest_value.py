"""A value that is replaced as a whole, and that any number of tasks watch.

It holds no queue: who is slow misses the values in between. Watchers are woken a few at a time,
each of which wakes another. If a service with 4,096 watchers changed, and all of them ran in one
turn of the event loop, everything else would wait a quarter of a second.
"""

from __future__ import annotations

from typing import Generic, TypeVar

import trio

T = TypeVar("T")

_WOKEN_AT_ONCE = 32
"""Number of watchers that run in one turn of the event loop; together they take some 2 ms."""


class LatestValue(Generic[T]):
    """A value and those who wait for another one."""

    def __init__(self, value: T) -> None:
        self._value = value
        self._changes = 0
        self._waiting = trio.lowlevel.ParkingLot()

    @property
    def value(self) -> T:
        """The value as it is now. To set one that is equal to it wakes nobody."""
        return self._value

    @value.setter
    def value(self, value: T) -> None:
        if value != self._value:
            self._value = value
            self._changes += 1
            self._waiting.unpark(count=_WOKEN_AT_ONCE)

    async def another(self, seen: T) -> T:
        """Wait until the value is another one than `seen`, and return it.

        Cancellation: any time.
        """
        while self._value is seen:
            changes = self._changes
            await self._waiting.park()
            if self._changes != changes:  # If not, nobody behind this one waits for that change.
                self._waiting.unpark()
        return self._value
