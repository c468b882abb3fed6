"""Histograms that cost next to nothing while values come: these wait in lists, and are sorted into
buckets many at a time, which is cheaper by an order than to find the bucket of each.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence
from threading import Lock

# The buckets of gRFC A66.
# fmt: off
LATENCY = (
    0.0, 0.00001, 0.00005, 0.0001, 0.0003, 0.0006, 0.0008, 0.001, 0.002, 0.003, 0.004, 0.005,
    0.006, 0.008, 0.01, 0.013, 0.016, 0.02, 0.025, 0.03, 0.04, 0.05, 0.065, 0.08, 0.1, 0.13,
    0.16, 0.2, 0.25, 0.3, 0.4, 0.5, 0.65, 0.8, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0,
)
"""Seconds."""
SIZE = (
    0.0, 1024.0, 2048.0, 4096.0, 16384.0, 65536.0, 262144.0, 1048576.0, 4194304.0, 16777216.0,
    67108864.0, 268435456.0, 1073741824.0, 4294967296.0,
)
"""Bytes."""
# fmt: on
_SORTING = Lock()


class Histogram:
    """How many values fell into each bucket; one counts to the first bound it does not pass."""

    __slots__ = ("bounds", "counts", "total", "waiting")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        """One for each bound, and the last for what is above them all."""
        self.total = 0.0
        """The sum of all values."""
        self.waiting: list[float] = []
        """Values that are still to be sorted: whoever appends them sees to it that `sort` is
        called now and then. The same list for ever."""

    def sort(self) -> None:
        """Sort what waits into the buckets. For any thread, while another appends."""
        with _SORTING:
            values = self.waiting[:]
            del self.waiting[: len(values)]
            self._take(values)

    def _take(self, values: list[float]) -> None:
        values.sort()
        self.total += math.fsum(values)
        below = 0
        for number, bound in enumerate(self.bounds):
            if below == len(values):
                break
            upto = bisect_right(values, bound, below)
            self.counts[number] += upto - below
            below = upto
        self.counts[-1] += len(values) - below
