"""Metrics as values, independent of any library.

Names and units are OpenTelemetry's ("grpc.server.call.duration", "s"), as in gRFC A66;
`metrics.prometheus` converts them to Prometheus'.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping
from enum import Enum
from functools import partialmethod
from typing import TypeVar

import attrs

Labels = tuple[tuple[str, str], ...]
"""Pairs of name and value, in the same order for all points of a family."""
L = TypeVar("L", bound=Labels)

# fmt: off
LATENCY_BUCKETS = (
    0.0, 0.00001, 0.00005, 0.0001, 0.0003, 0.0006, 0.0008, 0.001, 0.002, 0.003, 0.004, 0.005,
    0.006, 0.008, 0.01, 0.013, 0.016, 0.02, 0.025, 0.03, 0.04, 0.05, 0.065, 0.08, 0.1, 0.13,
    0.16, 0.2, 0.25, 0.3, 0.4, 0.5, 0.65, 0.8, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0,
)
"""Bounds of durations in seconds, by gRFC A66."""
SIZE_BUCKETS = (
    0.0, 1024.0, 2048.0, 4096.0, 16384.0, 65536.0, 262144.0, 1048576.0, 4194304.0, 16777216.0,
    67108864.0, 268435456.0, 1073741824.0, 4294967296.0,
)
"""Bounds of sizes in bytes, by gRFC A66."""
# fmt: on


class MetricKind(Enum):
    """The type of a metric, which decides how its points may change."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


@attrs.frozen
class Distribution:
    """The value of a histogram point: counts per bucket, and the sum of the values."""

    bounds: tuple[float, ...]
    """Upper bounds of the buckets, rising and finite; the last bucket has none. They are usually
    the same for all points of a family."""
    counts: tuple[int, ...]
    """Number of values in each bucket: one per bound, and one above the last."""
    sum: float
    """Sum of all values."""

    @property
    def has_negative_buckets(self) -> bool:
        """Whether there are buckets for negative values. Their sum may fall, so that OpenMetrics
        allows such histograms neither a sum nor a count."""
        return bool(self.bounds) and self.bounds[0] < 0


class Histogram:
    """Counts of values per bucket; a value belongs to the first bound that it does not exceed."""

    __slots__ = ("bounds", "counts", "sum")

    def __init__(self, bounds: tuple[float, ...] = LATENCY_BUCKETS) -> None:
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


@attrs.frozen
class MetricPoint:
    """The value of one series at one time."""

    labels: Labels
    value: float | Distribution


@attrs.frozen
class MetricFamily:
    """A metric: its description, and all of its series."""

    name: str
    """Name in OpenTelemetry's style, such as "grpc.server.call.duration"."""
    kind: MetricKind
    unit: str
    """Unit in UCUM: "s", "By", or an annotation such as "{call}"."""
    text: str
    """Help text."""
    points: list[MetricPoint] = attrs.field(factory=list)

    def add(self, labels: Labels, value: float | Distribution) -> None:
        """Add the point of one series."""
        self.points.append(MetricPoint(labels, value))

    @classmethod
    def _make(
        cls,
        kind: MetricKind,
        name: str,
        unit: str,
        text: str,
        values: Mapping[L, float | Distribution] | None = None,
    ) -> MetricFamily:
        points = [MetricPoint(*each) for each in (values or {}).items()]
        return cls(name, kind, unit, text, points)

    # Each makes a family with one point for each set of labels in `values`.
    counter = partialmethod(_make, MetricKind.COUNTER)
    gauge = partialmethod(_make, MetricKind.GAUGE)
    histogram = partialmethod(_make, MetricKind.HISTOGRAM)


def instance_labels(plugin: str, number: int) -> Labels:
    """Return the labels of an instance; not "instance", which is Prometheus' name of the target."""
    return (("plugin", plugin), ("plugin_instance", str(number)))
