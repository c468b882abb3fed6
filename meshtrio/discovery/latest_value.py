"""A value that is replaced as a whole, and that any number of tasks watch.

It needs no queue: a slow watcher skips values. A change wakes a few watchers, each of which wakes
the next: if 4,096 watchers ran in one iteration of the event loop, all other tasks would wait for
a quarter of a second.
"""

from __future__ import annotations

from typing import Generic, TypeVar

import trio

T = TypeVar("T")

_WAKEUPS_PER_CHANGE = 32
"""Number of watchers that run in one iteration of the event loop; together they take about 2 ms."""


class LatestValue(Generic[T]):
    """A value, and the tasks that wait for another one."""

    def __init__(self, value: T) -> None:
        self._value = value
        self._changes = 0
        self._waiting = trio.lowlevel.ParkingLot()

    @property
    def value(self) -> T:
        """The current value. Setting an equal one wakes no watcher."""
        return self._value

    @value.setter
    def value(self, value: T) -> None:
        if value != self._value:
            self._value = value
            self._changes += 1
            self._waiting.unpark(count=_WAKEUPS_PER_CHANGE)

    async def wait_for_change(self, seen: T) -> T:
        """Wait until the value is another object than `seen`; return it.

        Cancellation: while it waits. It is no checkpoint if the value has changed already.
        """
        while self._value is seen:
            changes = self._changes
            await self._waiting.park()
            if self._changes != changes:  # If not, those behind have seen the value as well.
                self._waiting.unpark()
        return self._value
