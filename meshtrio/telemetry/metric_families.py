"""Metrics as values, independent of any library.

Names and units are OpenTelemetry's ("grpc.server.call.duration", "s"), as in gRFC A66;
`metrics.prometheus` converts them to Prometheus'.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from functools import partial
from typing import TypeVar

import attrs

Labels = tuple[tuple[str, str], ...]
"""Pairs of name and value, in the same order for all points of a family."""
L = TypeVar("L", bound=Labels)


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


def make_family(
    kind: MetricKind,
    name: str,
    unit: str,
    text: str,
    values: Mapping[L, float | Distribution] | None = None,
) -> MetricFamily:
    """Make a family with one point for each set of labels."""
    points = [MetricPoint(*each) for each in (values or {}).items()]
    return MetricFamily(name, kind, unit, text, points)


counter_family = partial(make_family, MetricKind.COUNTER)
gauge_family = partial(make_family, MetricKind.GAUGE)
histogram_family = partial(make_family, MetricKind.HISTOGRAM)


def instance_labels(plugin: str, number: int) -> Labels:
    """Return the labels of an instance; not "instance", which is Prometheus' name of the target."""
    return (("plugin", plugin), ("plugin_instance", str(number)))
