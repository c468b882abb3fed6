"""Histograms, and the buckets of gRFC A66."""

from __future__ import annotations

from bisect import bisect_right

from meshtrio.telemetry.metric_families import Distribution

# fmt: off
LATENCY_BUCKETS = (
    0.0, 0.00001, 0.00005, 0.0001, 0.0003, 0.0006, 0.0008, 0.001, 0.002, 0.003, 0.004, 0.005,
    0.006, 0.008, 0.01, 0.013, 0.016, 0.02, 0.025, 0.03, 0.04, 0.05, 0.065, 0.08, 0.1, 0.13,
    0.16, 0.2, 0.25, 0.3, 0.4, 0.5, 0.65, 0.8, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0,
)
"""Bounds in seconds."""
SIZE_BUCKETS = (
    0.0, 1024.0, 2048.0, 4096.0, 16384.0, 65536.0, 262144.0, 1048576.0, 4194304.0, 16777216.0,
    67108864.0, 268435456.0, 1073741824.0, 4294967296.0,
)
"""Bounds in bytes."""
# fmt: on


class Histogram:
    """Counts of values per bucket; a value belongs to the first bound that it does not exceed."""

    __slots__ = ("bounds", "counts", "sum")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        """Number of values in each bucket: one for each bound, and one above the last bound."""
        self.sum = 0.0
        """Sum of all values."""

    def record(self, values: list[float]) -> None:
        """Count values; sorts the list in place. For one thread at a time."""
        values.sort()
        self.sum += sum(values)
        below = 0
        for number, bound in enumerate(self.bounds):
            if below == len(values):
                return
            upto = bisect_right(values, bound, below)
            self.counts[number] += upto - below
            below = upto
        self.counts[-1] += len(values) - below

    def snapshot(self) -> Distribution:
        """Return the current counts. Safe in any thread."""
        return Distribution(self.bounds, tuple(self.counts), self.sum)
