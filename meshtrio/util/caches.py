"""Caches with a maximum size."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Generic, TypeVar

K = TypeVar("K")
V = TypeVar("V")


class BoundedCache(Generic[K, V]):
    """Maps at most `max_size` keys to values, the least recently used of which is evicted.

    `functools.lru_cache` is faster where a function's results are to be cached without conditions.
    This class is for caches that are invalidated, hold some of the results only, or belong to an
    object. For one thread.
    """

    __slots__ = ("_entries", "_max_size")

    def __init__(self, max_size: int) -> None:
        self._entries: OrderedDict[K, V] = OrderedDict()
        self._max_size = max_size

    def get(self, key: K) -> V | None:
        """Return the value of a key and mark it as used; None if it is not in the cache."""
        value = self._entries.get(key)
        if value is not None:
            self._entries.move_to_end(key)
        return value

    def __setitem__(self, key: K, value: V) -> None:
        """Set the value of a key, which becomes the most recently used one."""
        entries = self._entries
        entries[key] = value
        entries.move_to_end(key)
        if len(entries) > self._max_size:
            entries.popitem(last=False)

    def __len__(self) -> int:
        return len(self._entries)

    def clear(self) -> None:
        """Remove all entries."""
        self._entries.clear()


class IdentityCache(Generic[K, V]):
    """Calls a function once per object, as long as the result is cached.

    Like `functools.lru_cache`, for arguments that are expensive to hash and come again as the same
    objects. At `max_entries` the oldest entry is evicted; keeping track of use, as `BoundedCache`
    does, would nearly double the time of a look-up.
    """

    def __init__(self, function: Callable[[K], V], max_entries: int = 256) -> None:
        self._function = function
        self._max_entries = max_entries
        self._entries: dict[int, tuple[K, V]] = {}

    def __call__(self, argument: K) -> V:
        """Return the function's result for `argument`, from the cache if possible."""
        entry = self._entries.get(id(argument))
        # The entry holds its argument, so that no other object can have the same id.
        if entry is not None and entry[0] is argument:
            return entry[1]
        result = self._function(argument)
        if len(self._entries) >= self._max_entries:
            del self._entries[next(iter(self._entries))]
        self._entries[id(argument)] = argument, result
        return result
