"""meshtrio.v1.Metrics: what a process measures, for its mesh to ask."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from meshtrio.messages import metrics
from meshtrio.rpc.dynamic import service_of
from meshtrio.rpc.meter import Meter
from meshtrio.telemetry.families import Distribution, Family, Kind, Point

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
            families=[message_of(family) for family in self._families()],
            in_flight=self._meter.started - self._meter.ended,
        )


def message_of(family: Family) -> Any:
    return metrics.MetricFamily(
        name=family.name,
        kind=_KINDS[family.kind],
        unit=family.unit,
        text=family.text,
        bounds=family.bounds,
        points=[_message_of_point(point) for point in family.points],
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
        bounds = tuple(message.bounds)
        if kind is None or list(bounds) != sorted(bounds):
            continue
        points = [_point_of(point, kind) for point in message.points]
        fitting = [
            point
            for point in points
            if not isinstance(point.value, Distribution)
            or len(point.value.counts) == len(bounds) + 1
        ]
        found.append(Family(message.name, kind, message.unit, message.text, fitting, bounds))
    return found


def _point_of(message: Any, kind: Kind) -> Point:
    labels = tuple((label.name, label.value) for label in message.labels)
    if kind is Kind.HISTOGRAM:
        return Point(labels, Distribution(tuple(message.counts), message.value))
    return Point(labels, message.value)
