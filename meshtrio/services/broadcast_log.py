"""A bounded log in memory with any number of readers, and the limit on the time that they take."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncGenerator, Callable, Iterable
from itertools import islice
from typing import Generic, Self, TypeVar

import attrs
import trio

T = TypeVar("T")

_READER_TIME_SLICE = 0.0002
"""Delay, in seconds per connected reader, before the same reader is sent its next update."""


class ReaderThrottle:
    """Limits the time that updates of many readers take.

    After each update a reader waits for a time proportional to the number of readers, and then gets
    all that has changed meanwhile. A reader that has waited long enough is updated at once.
    """

    def __init__(self) -> None:
        self.readers = 0
        """Number of connected readers."""

    def __enter__(self) -> Self:
        self.readers += 1
        return self

    def __exit__(self, *_: object) -> None:
        self.readers -= 1

    async def wait(self) -> None:
        """Wait before the next update of a reader."""
        await trio.sleep(self.readers * _READER_TIME_SLICE)


@attrs.define(eq=False)
class BroadcastLog(Generic[T]):
    """Keeps the last entries, numbered from 1; slower readers are told how many they missed."""

    _max_entries: int
    _max_size: float = float("inf")
    """Maximum total size of the entries."""
    _size_of: Callable[[T], int] = lambda _: 0
    _entries: deque[T] = attrs.field(factory=deque)
    _size: int = 0
    last_number: int = 0
    """The number of the latest entry; 0 if there was none."""
    _entry_added: trio.lowlevel.ParkingLot = attrs.field(factory=trio.lowlevel.ParkingLot)

    def append(self, entry: T) -> None:
        """Add an entry, drop the oldest ones over the limits, and wake waiting readers."""
        self._entries.append(entry)
        self.last_number += 1
        self._size += self._size_of(entry)
        while len(self._entries) > self._max_entries or self._size > self._max_size:
            self._size -= self._size_of(self._entries.popleft())
        self._entry_added.unpark_all()

    def adopt(self, entries: Iterable[T], last_number: int) -> None:
        """Continue a log that had these entries at last."""
        for entry in entries:
            self.append(entry)
        self.last_number = max(last_number, self.last_number)

    def read_after(self, number: int) -> tuple[list[tuple[int, T]], int]:
        """Return the numbered entries after `number`, and how many of them were dropped."""
        first = self.last_number - len(self._entries) + 1
        missed = max(first - number - 1, 0)
        begin = max(number + 1 - first, 0)
        entries = islice(self._entries, begin, None)
        return list(enumerate(entries, start=first + begin)), missed

    async def wait_after(self, number: int) -> None:
        """Wait until there is an entry after `number`."""
        while self.last_number <= number:
            await self._entry_added.park()

    async def follow(
        self, position: int, is_wanted: Callable[[T], bool], throttle: ReaderThrottle
    ) -> AsyncGenerator[tuple[int, T, int], None]:
        """Yield wanted entries after `position`, with their number and that of missed ones."""
        missed = 0
        while True:
            await self.wait_after(position)
            found, more = self.read_after(position)
            position, missed = self.last_number, missed + more
            for number, entry in found:
                if is_wanted(entry):
                    yield number, entry, missed
                    missed = 0
            await throttle.wait()
