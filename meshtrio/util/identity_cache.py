"""A bounded cache of what is computed from an object, by the object's identity."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

K = TypeVar("K")
V = TypeVar("V")


class IdentityCache(Generic[K, V]):
    """Calls a function once per object, as long as the result is cached.

    Like `functools.lru_cache`, for arguments that are expensive to hash and come again as the same
    objects. At `max_entries` the oldest entry is evicted; keeping track of use, as `BoundedCache`
    does, would nearly double the time of a look-up.
    """

    def __init__(self, function: Callable[[K], V], max_entries: int = 256) -> None:
        """Create an empty cache of the results of `function`."""
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
