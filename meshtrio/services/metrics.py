"""meshtrio.v1.Metrics: what a process measures, for its mesh to ask."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import pairwise
from math import isfinite
from typing import Any

from meshtrio.messages import metrics
from meshtrio.rpc.dynamic import service_of
from meshtrio.rpc.meter import Meter
from meshtrio.telemetry.families import Distribution, Family, Kind, Labels, Point

_KINDS = {
    Kind.COUNTER: metrics.METRIC_KIND_COUNTER,
    Kind.GAUGE: metrics.METRIC_KIND_GAUGE,
    Kind.HISTOGRAM: metrics.METRIC_KIND_HISTOGRAM,
}
_BY_NUMBER = {number: kind for kind, number in _KINDS.items()}


class MetricsServicer:
    """Tells what it is given to tell."""

    def __init__(self, families: Callable[[], Sequence[Family]], meter: Meter) -> None:
        self._families = families
        self._meter = meter
        self.service = service_of(metrics.DESCRIPTOR.services_by_name["Metrics"], self)

    async def Collect(self, request: Any) -> Any:  # noqa: N802 - the method's name
        return metrics.CollectMetricsResponse(
            families=[each for family in self._families() for each in messages_of(family)],
            in_flight=self._meter.started - self._meter.ended,
        )


def messages_of(family: Family) -> Iterator[Any]:
    """One, or one for all points that have the same buckets."""
    by_bounds: defaultdict[tuple[float, ...], list[Point]] = defaultdict(list)
    for point in family.points:
        bounds = point.value.bounds if isinstance(point.value, Distribution) else ()
        by_bounds[bounds].append(point)
    for bounds, points in by_bounds.items():
        yield metrics.MetricFamily(
            name=family.name,
            kind=_KINDS[family.kind],
            unit=family.unit,
            text=family.text,
            bounds=bounds,
            points=[_message_of_point(point) for point in points],
        )


def _message_of_point(point: Point) -> Any:
    value = point.value
    labels = [metrics.MetricLabel(name=name, value=text) for name, text in point.labels]
    if isinstance(value, Distribution):
        return metrics.MetricPoint(labels=labels, value=value.total, counts=value.counts)
    return metrics.MetricPoint(labels=labels, value=value)


def families_of(messages: Iterable[Any]) -> list[Family]:
    """What another process tells, but for what makes no sense."""
    found = []
    for message in messages:
        kind = _BY_NUMBER.get(message.kind)
        if kind is None or not message.name:
            continue
        if kind is Kind.HISTOGRAM:
            points = list(_distributions(message))
        else:
            points = [Point(_labels_of(point), point.value) for point in message.points]
        found.append(Family(message.name, kind, message.unit, message.text, points))
    return found


def _distributions(message: Any) -> Iterator[Point]:
    bounds = tuple(message.bounds)
    if all(map(isfinite, bounds)) and all(a < b for a, b in pairwise(bounds)):
        for point in message.points:
            if len(point.counts) == len(bounds) + 1:
                value = Distribution(bounds, tuple(point.counts), point.value)
                yield Point(_labels_of(point), value)


def _labels_of(point: Any) -> Labels:
    return tuple((label.name, label.value) for label in point.labels)
