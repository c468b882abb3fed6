"""What happened lately, for any number of readers, each at a pace of its own."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from itertools import islice
from typing import Generic, TypeVar

import trio

T = TypeVar("T")

_READER_TIME_SLICE = 0.0002
"""Seconds of the mesh's time that telling one reader may take of each turn of all readers."""


class ReaderThrottle:
    """Keeps telling many readers from taking all of the mesh's time.

    After each thing it is told, a reader rests for a time that grows with the number of readers,
    and is brought up to date then. Who is told something once in a while is told at once.
    """

    def __init__(self) -> None:
        self.readers = 0

    def __enter__(self) -> None:
        self.readers += 1

    def __exit__(self, *_: object) -> None:
        self.readers -= 1

    async def wait(self) -> None:
        await trio.sleep(self.readers * _READER_TIME_SLICE)


class BroadcastLog(Generic[T]):
    """The last entries, numbered from 1; a reader that falls behind by more has missed some."""

    def __init__(
        self,
        max_entries: int,
        max_size: float = float("inf"),
        size_of: Callable[[T], int] = lambda _: 0,
    ) -> None:
        """Keeps `most` entries, and by `size` no more than `most_size` in all."""
        self._max_entries = max_entries
        self._max_size = max_size
        self._size_of = size_of
        self._entries: deque[T] = deque()
        self._size = 0
        self._count = 0
        self._entry_added = trio.lowlevel.ParkingLot()

    @property
    def last_number(self) -> int:
        """The number of the latest entry, 0 while there is none."""
        return self._count

    def append(self, entry: T) -> None:
        self._entries.append(entry)
        self._count += 1
        self._size += self._size_of(entry)
        while len(self._entries) > self._max_entries or self._size > self._max_size:
            self._size -= self._size_of(self._entries.popleft())
        self._entry_added.unpark_all()

    def read_after(self, number: int) -> tuple[list[tuple[int, T]], int]:
        """What came after an entry, each with its number, and how many of that are kept no more."""
        first = self._count - len(self._entries) + 1
        missed = max(first - number - 1, 0)
        begin = max(number + 1 - first, 0)
        found = islice(self._entries, begin, None)
        return list(enumerate(found, start=first + begin)), missed

    async def wait_after(self, number: int) -> None:
        """Wait until there is one after this."""
        while self._count <= number:
            await self._entry_added.park()
