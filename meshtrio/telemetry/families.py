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


class Kind(Enum):
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
    total: float

    @property
    def has_negative(self) -> bool:
        """Whether there are buckets for values below 0. The sum of such values may fall, so that in
        OpenMetrics they have none, nor a count, which only goes with a sum."""
        return bool(self.bounds) and self.bounds[0] < 0


@attrs.frozen
class Point:
    """One series at a moment."""

    labels: Labels
    value: float | Distribution


@attrs.frozen
class Family:
    """All series of one name."""

    name: str
    kind: Kind
    unit: str
    """"s", "By", or what is counted: "{call}"."""
    text: str
    points: Sequence[Point]


def gauge(name: str, unit: str, text: str, values: Mapping[Labels, float]) -> Family:
    return _simple(name, Kind.GAUGE, unit, text, values)


def counter(name: str, unit: str, text: str, values: Mapping[Labels, float]) -> Family:
    return _simple(name, Kind.COUNTER, unit, text, values)


def _simple(name: str, kind: Kind, unit: str, text: str, values: Mapping[Labels, float]) -> Family:
    return Family(name, kind, unit, text, [Point(*each) for each in values.items()])


def instance_labels(plugin: str, number: int) -> Labels:
    """Not "instance", which Prometheus uses for whom it scrapes."""
    return (("plugin", plugin), ("plugin_instance", str(number)))
