"""Metrics as values: what is told of them, to whoever exposes or collects them.

Names and units are those of OpenTelemetry ("grpc.server.call.duration", "s"), as gRFC A66 has them;
what Prometheus makes of them is a matter of `exposition`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import Enum

import attrs

Labels = tuple[tuple[str, str], ...]
"""Names and values, in an order that is the same for all points of a family."""


class MetricKind(Enum):
    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


@attrs.frozen
class Distribution:
    """What fell into each bucket, and the sum of it."""

    bounds: tuple[float, ...]
    """Of the buckets, rising and finite; the last has none. Most of the time they are those of all
    points of a family."""
    counts: tuple[int, ...]
    """One for each bound, and the last for what is above them all."""
    sum: float

    @property
    def has_negative_buckets(self) -> bool:
        """Whether there are buckets for values below 0. The sum of such values may fall, so that in
        OpenMetrics they have none, nor a count, which only goes with a sum."""
        return bool(self.bounds) and self.bounds[0] < 0


@attrs.frozen
class MetricPoint:
    """One series at a moment."""

    labels: Labels
    value: float | Distribution


@attrs.frozen
class MetricFamily:
    """All series of one name."""

    name: str
    kind: MetricKind
    unit: str
    """"s", "By", or what is counted: "{call}"."""
    text: str
    points: Sequence[MetricPoint]


def gauge_family(name: str, unit: str, text: str, values: Mapping[Labels, float]) -> MetricFamily:
    return _scalar_family(name, MetricKind.GAUGE, unit, text, values)


def counter_family(name: str, unit: str, text: str, values: Mapping[Labels, float]) -> MetricFamily:
    return _scalar_family(name, MetricKind.COUNTER, unit, text, values)


def _scalar_family(
    name: str, kind: MetricKind, unit: str, text: str, values: Mapping[Labels, float]
) -> MetricFamily:
    return MetricFamily(name, kind, unit, text, [MetricPoint(*each) for each in values.items()])


def instance_labels(plugin: str, number: int) -> Labels:
    """Not "instance", which Prometheus uses for whom it scrapes."""
    return (("plugin", plugin), ("plugin_instance", str(number)))
