"""meshtrio.v1.Metrics: what a process measures, for its mesh to ask."""

from __future__ import annotations

import logging
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

from meshtrio.messages import metrics
from meshtrio.rpc.protobuf_descriptors import service_from_descriptor
from meshtrio.rpc.server_load import LoadRecorder
from meshtrio.telemetry.metric_families import (
    Distribution,
    MetricFamily,
    MetricKind,
    MetricPoint,
)
from meshtrio.telemetry.metrics.family_merger import (
    DROP_REASON_TEXT,
    MAX_BUCKETS,
    MAX_LABELS,
    DropReason,
    FamilyMerger,
)
from meshtrio.util.protobuf_wire import MalformedProtobufError, iter_fields, split_message
from meshtrio.util.worker_threads import GilYielder, run_computation

_log = logging.getLogger("meshtrio.telemetry")

_KINDS = {
    MetricKind.COUNTER: metrics.METRIC_KIND_COUNTER,
    MetricKind.GAUGE: metrics.METRIC_KIND_GAUGE,
    MetricKind.HISTOGRAM: metrics.METRIC_KIND_HISTOGRAM,
}
_KIND_BY_NUMBER = {number: kind for kind, number in _KINDS.items()}
_FAMILIES_FIELD = metrics.CollectMetricsResponse.FAMILIES_FIELD_NUMBER
_CHUNK_SIZE = 64 * 1024
"""Bytes that are parsed at a time. Those of a hostile plugin, all empty messages, take 6 ms."""
MAX_FAMILIES = 20_000
MAX_POINTS = 100_000
"""Of one instance; more than its share of the text has room for."""
MAX_TOTAL_LABELS = 400_000
_MAX_OTHER_BYTES = 1024
"""Bytes of a response that are no families."""


class MetricsServicer:
    """Tells what it is given to tell."""

    def __init__(
        self, families: Callable[[], Sequence[MetricFamily]], load_recorder: LoadRecorder
    ) -> None:
        self._families = families
        self._load_recorder = load_recorder
        self._logged: set[DropReason] = set()
        self.service = service_from_descriptor(metrics.DESCRIPTOR.services_by_name["Metrics"], self)

    async def Collect(self, request: Any) -> Any:  # noqa: N802 - the method's name
        reply, left_out = await run_computation(partial(_make_response, self._families()))
        for reason in left_out.keys() - self._logged:
            self._logged.add(reason)
            _log.warning("some metrics are not sent to the mesh: %s", DROP_REASON_TEXT[reason])
        reply.in_flight = self._load_recorder.started - self._load_recorder.ended
        return reply


def _make_response(
    families: Sequence[MetricFamily], pace: GilYielder
) -> tuple[Any, Counter[DropReason]]:
    """What can be sent, and how much was left out: a program may measure what has no message."""
    admission = FamilyMerger(pace)
    left_out = admission.merge(families, is_mesh=True)
    found = [each for family in admission.families() for each in encode_family(family)]
    return metrics.CollectMetricsResponse(families=found), left_out


def encode_family(family: MetricFamily) -> Iterator[Any]:
    """One, or one for all points that have the same buckets."""
    by_bounds: defaultdict[tuple[float, ...], list[MetricPoint]] = defaultdict(list)
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
            points=[_encode_point(point) for point in points],
        )


def _encode_point(point: MetricPoint) -> Any:
    value = point.value
    labels = [metrics.MetricLabel(name=name, value=text) for name, text in point.labels]
    if isinstance(value, Distribution):
        return metrics.MetricPoint(labels=labels, value=value.sum, counts=value.counts)
    return metrics.MetricPoint(labels=labels, value=value)


# -- from another process ----------------------------------------------------------------------


class CollectedMetrics:
    """What another process tells, which is not trusted: it is parsed in parts, and only once it is
    known to be of a bearable size."""

    def __init__(self, data: bytes, checkpoint: Callable[[], object] = lambda: None) -> None:
        """Args:
            data: A CollectMetricsResponse.
            rest: Called every now and then, for work that is done in a thread; may raise.

        Raises:
            MalformedError: It is none, or too large.
        """
        self._data = data
        self._checkpoint = checkpoint
        self._family_spans: list[tuple[int, int]] = []
        self._field_count = self._point_count = self._label_count = 0
        others = bytearray()
        for number, begin, value, end in iter_fields(data):
            checkpoint()
            if number == _FAMILIES_FIELD and value >= 0:
                self._family_spans.append((value, end))
                if len(self._family_spans) > MAX_FAMILIES:
                    raise MalformedProtobufError(f"there are more than {MAX_FAMILIES:,} families")
            else:
                others += data[begin:end]
                if len(others) > _MAX_OTHER_BYTES:
                    raise MalformedProtobufError("there is more in it than families")
        self.in_flight: int = _parse(metrics.CollectMetricsResponse, bytes(others)).in_flight

    def decode_families(self) -> Iterator[MetricFamily]:
        """Give what there is, large families in several parts.

        Raises MalformedError for what cannot be parsed, or is too much.
        """
        for begin, end in self._family_spans:
            about = metrics.MetricFamily()
            for data, count in split_message(self._data, begin, end, _CHUNK_SIZE):
                self._checkpoint()
                part = _parse(metrics.MetricFamily, data)
                self._field_count += count
                self._point_count += len(part.points)
                self._label_count += sum(len(point.labels) for point in part.points)
                self._check_limits()
                yield _decode_family(about, part)

    def _check_limits(self) -> None:
        """Work is proportional to these, whatever their size is."""
        if self._point_count > MAX_POINTS:
            raise MalformedProtobufError(f"there are more than {MAX_POINTS:,} points")
        if (
            self._label_count > MAX_TOTAL_LABELS
            or self._field_count > MAX_POINTS + 10 * MAX_FAMILIES
        ):
            raise MalformedProtobufError("there are too many labels or fields in it")


def _decode_family(header: Any, chunk: Any) -> MetricFamily:
    """The points of one part. `about` is what earlier parts said of the family, which comes before
    the points; it is updated."""
    for field in ("name", "kind", "unit", "text"):
        if getattr(chunk, field):
            setattr(header, field, getattr(chunk, field))
    header.bounds.extend(chunk.bounds[: MAX_BUCKETS + 1 - len(header.bounds)])
    kind, bounds = _KIND_BY_NUMBER.get(header.kind), tuple(header.bounds)
    if kind is None:
        return MetricFamily(
            "", MetricKind.GAUGE, "", "", [MetricPoint((), 0.0)] * len(chunk.points)
        )
    points = [
        MetricPoint(
            tuple((label.name, label.value) for label in each.labels[: MAX_LABELS + 1]),
            Distribution(bounds, tuple(each.counts[: MAX_BUCKETS + 2]), each.value)
            if kind is MetricKind.HISTOGRAM
            else each.value,
        )
        for each in chunk.points
    ]
    return MetricFamily(header.name, kind, header.unit, header.text, points)


def _parse(message_type: Any, data: bytes) -> Any:
    try:
        return message_type.FromString(data)
    except Exception as exc:
        raise MalformedProtobufError(f"it is no {message_type.__name__}: {exc}") from None
