"""Which of the ready subchannels takes the next call: pure, no clock, no global random."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")


class RoundRobin:
    """Takes them in turn, so that any number of equal calls in a row is spread evenly."""

    def __init__(self) -> None:
        self._turn = 0

    def pick(self, ready: Sequence[T]) -> T:
        """`ready` must not be empty; it may change between calls."""
        self._turn = (self._turn + 1) % len(ready)
        return ready[self._turn]
