"""meshtrio.v1.Metrics: what a process measures, for its mesh to ask."""

from __future__ import annotations

import logging
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

from meshtrio.messages import metrics
from meshtrio.rpc.dynamic import service_of
from meshtrio.rpc.meter import Meter
from meshtrio.telemetry.families import Distribution, Family, Kind, Point
from meshtrio.telemetry.metrics.admission import MAX_BUCKETS, MAX_LABELS, WHY, Admission, Reason
from meshtrio.threads import Pace, compute
from meshtrio.wire.protobuf import MalformedError, fields, parts

_log = logging.getLogger("meshtrio.telemetry")

_KINDS = {
    Kind.COUNTER: metrics.METRIC_KIND_COUNTER,
    Kind.GAUGE: metrics.METRIC_KIND_GAUGE,
    Kind.HISTOGRAM: metrics.METRIC_KIND_HISTOGRAM,
}
_BY_NUMBER = {number: kind for kind, number in _KINDS.items()}
_FAMILIES = metrics.CollectMetricsResponse.FAMILIES_FIELD_NUMBER
_PART = 64 * 1024
"""Bytes that are parsed at a time. Those of a hostile plugin, all empty messages, take 6 ms."""
MAX_FAMILIES = 20_000
MAX_POINTS = 100_000
"""Of one instance; more than its share of the text has room for."""
MAX_LABELS_TOGETHER = 400_000
_MAX_OTHERS = 1024
"""Bytes of a response that are no families."""


class MetricsServicer:
    """Tells what it is given to tell."""

    def __init__(self, families: Callable[[], Sequence[Family]], meter: Meter) -> None:
        self._families = families
        self._meter = meter
        self._logged: set[Reason] = set()
        self.service = service_of(metrics.DESCRIPTOR.services_by_name["Metrics"], self)

    async def Collect(self, request: Any) -> Any:  # noqa: N802 - the method's name
        reply, left_out = await compute(partial(_reply, self._families()))
        for reason in left_out.keys() - self._logged:
            self._logged.add(reason)
            _log.warning("some metrics are not sent to the mesh: %s", WHY[reason])
        reply.in_flight = self._meter.started - self._meter.ended
        return reply


def _reply(families: Sequence[Family], pace: Pace) -> tuple[Any, Counter[Reason]]:
    """What can be sent, and how much was left out: a program may measure what has no message."""
    admission = Admission(pace)
    left_out = admission.take(families, own=True)
    found = [each for family in admission.families() for each in messages_of(family)]
    return metrics.CollectMetricsResponse(families=found), left_out


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


# -- from another process ----------------------------------------------------------------------


class CollectedMetrics:
    """What another process tells, which is not trusted: it is parsed in parts, and only once it is
    known to be of a bearable size."""

    def __init__(self, data: bytes, rest: Callable[[], object] = lambda: None) -> None:
        """Args:
            data: A CollectMetricsResponse.
            rest: Called every now and then, for work that is done in a thread; may raise.

        Raises:
            MalformedError: It is none, or too large.
        """
        self._data = data
        self._rest = rest
        self._families: list[tuple[int, int]] = []
        self._fields = self._points = self._labels = 0
        others = bytearray()
        for number, begin, value, end in fields(data):
            rest()
            if number == _FAMILIES and value >= 0:
                self._families.append((value, end))
                if len(self._families) > MAX_FAMILIES:
                    raise MalformedError(f"there are more than {MAX_FAMILIES:,} families")
            else:
                others += data[begin:end]
                if len(others) > _MAX_OTHERS:
                    raise MalformedError("there is more in it than families")
        self.in_flight: int = _parsed(metrics.CollectMetricsResponse, bytes(others)).in_flight

    def families(self) -> Iterator[Family]:
        """Give what there is, large families in several parts.

        Raises MalformedError for what cannot be parsed, or is too much.
        """
        for begin, end in self._families:
            about = metrics.MetricFamily()
            for data, count in parts(self._data, begin, end, _PART):
                self._rest()
                part = _parsed(metrics.MetricFamily, data)
                self._fields += count
                self._points += len(part.points)
                self._labels += sum(len(point.labels) for point in part.points)
                self._check()
                yield _family_of(about, part)

    def _check(self) -> None:
        """Work is proportional to these, whatever their size is."""
        if self._points > MAX_POINTS:
            raise MalformedError(f"there are more than {MAX_POINTS:,} points")
        if self._labels > MAX_LABELS_TOGETHER or self._fields > MAX_POINTS + 10 * MAX_FAMILIES:
            raise MalformedError("there are too many labels or fields in it")


def _family_of(about: Any, part: Any) -> Family:
    """The points of one part. `about` is what earlier parts said of the family, which comes before
    the points; it is updated."""
    for field in ("name", "kind", "unit", "text"):
        if getattr(part, field):
            setattr(about, field, getattr(part, field))
    about.bounds.extend(part.bounds[: MAX_BUCKETS + 1 - len(about.bounds)])
    kind, bounds = _BY_NUMBER.get(about.kind), tuple(about.bounds)
    if kind is None:
        return Family("", Kind.GAUGE, "", "", [Point((), 0.0)] * len(part.points))
    points = [
        Point(
            tuple((label.name, label.value) for label in each.labels[: MAX_LABELS + 1]),
            Distribution(bounds, tuple(each.counts[: MAX_BUCKETS + 2]), each.value)
            if kind is Kind.HISTOGRAM
            else each.value,
        )
        for each in part.points
    ]
    return Family(about.name, kind, about.unit, about.text, points)


def _parsed(kind: Any, data: bytes) -> Any:
    try:
        return kind.FromString(data)
    except Exception as exc:
        raise MalformedError(f"it is no {kind.__name__}: {exc}") from None
