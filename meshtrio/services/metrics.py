"""The meshtrio.v1.Metrics servicer of a process, and the decoder of its responses in the mesh."""

from __future__ import annotations

import logging
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

from meshtrio.messages import metrics
from meshtrio.rpc.protobuf_descriptors import service_from_descriptor
from meshtrio.rpc.stats import LoadRecorder
from meshtrio.telemetry.metric_families import Distribution, MetricFamily, MetricKind, MetricPoint
from meshtrio.telemetry.metrics import MetricSource, family_merger
from meshtrio.util.log_once import OncePerReasonLogger
from meshtrio.util.protobuf_wire import MalformedProtobufError, split_message, split_repeated
from meshtrio.util.worker_threads import GilYielder, run_computation

_log = logging.getLogger("meshtrio.telemetry")

_KINDS = {kind: getattr(metrics, f"METRIC_KIND_{kind.name}") for kind in MetricKind}
_KIND_BY_NUMBER = {number: kind for kind, number in _KINDS.items()}
_FAMILIES_FIELD = metrics.CollectMetricsResponse.FAMILIES_FIELD_NUMBER
_CHUNK_SIZE = 64 * 1024
"""Bytes that are parsed at a time: 6 ms for the worst content, which is all empty messages."""
MAX_FAMILIES = 20_000
"""Maximum number of metric families in a response."""
MAX_POINTS = 100_000
"""Maximum number of points in a response: more than an instance's share of the text can hold."""
MAX_TOTAL_LABELS = 400_000
"""Maximum number of labels in a response."""


class MetricsServicer:
    """Serves the metrics of its process."""

    def __init__(self, collect: MetricSource, load_recorder: LoadRecorder) -> None:
        self._collect = collect
        self._load_recorder = load_recorder
        self._warnings = OncePerReasonLogger(_log)
        self.service = service_from_descriptor(metrics.DESCRIPTOR.services_by_name["Metrics"], self)

    async def Collect(self, request: Any) -> Any:  # noqa: N802 - the method's name
        reply, dropped = await run_computation(partial(_make_response, self._collect()))
        for reason in dropped:
            self._warnings.log(reason, "dropping metrics for the mesh: %s", reason.text)
        reply.in_flight = self._load_recorder.started - self._load_recorder.ended
        return reply


def _make_response(
    families: Sequence[MetricFamily], yield_gil: GilYielder
) -> tuple[Any, Counter[family_merger.DropReason]]:
    """Make a response, and count the points that were dropped because they cannot be sent."""
    merger = family_merger.FamilyMerger(yield_gil)
    dropped = merger.merge(families, is_mesh=True)
    encoded = [each for family in merger.families() for each in encode_family(family)]
    return metrics.CollectMetricsResponse(families=encoded), dropped


def encode_family(family: MetricFamily) -> Iterator[Any]:
    """Encode a family as one message for each set of buckets."""
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


def decode_response(
    data: bytes, checkpoint: Callable[[], object] = lambda: None
) -> tuple[int, Iterator[MetricFamily]]:
    """Return the calls in flight and the families of a CollectMetricsResponse, not trusting it.

    Its size is checked before it is parsed, and it is parsed in chunks: large families come in
    several parts. `checkpoint` is called regularly, for use in a worker thread; it may raise.

    Raises MalformedProtobufError for malformed data and above a limit, and so does the iterator.
    """
    spans, rest = split_repeated(data, _FAMILIES_FIELD, MAX_FAMILIES, "families", checkpoint)
    in_flight: int = _parse(metrics.CollectMetricsResponse, rest).in_flight
    return in_flight, _decode_families(data, spans, checkpoint)


def _decode_families(
    data: bytes, spans: list[tuple[int, int]], checkpoint: Callable[[], object]
) -> Iterator[MetricFamily]:
    field_count = point_count = label_count = 0
    for begin, end in spans:
        header = metrics.MetricFamily()
        for part, count in split_message(data, begin, end, _CHUNK_SIZE):
            checkpoint()
            chunk = _parse(metrics.MetricFamily, part)
            field_count += count
            point_count += len(chunk.points)
            label_count += sum(len(point.labels) for point in chunk.points)
            if point_count > MAX_POINTS:
                raise MalformedProtobufError(f"more than {MAX_POINTS:,} points")
            max_fields = MAX_POINTS + 10 * MAX_FAMILIES
            if label_count > MAX_TOTAL_LABELS or field_count > max_fields:
                raise MalformedProtobufError("too many labels or fields")
            yield _decode_family(header, chunk)


def _decode_family(header: Any, chunk: Any) -> MetricFamily:
    """Decode one chunk of a family; update `header`, the fields of the family so far."""
    for field in ("name", "kind", "unit", "text"):
        if getattr(chunk, field):
            setattr(header, field, getattr(chunk, field))
    header.bounds.extend(chunk.bounds[: family_merger.MAX_BUCKETS + 1 - len(header.bounds)])
    kind, bounds = _KIND_BY_NUMBER.get(header.kind), tuple(header.bounds)
    if kind is None:
        points = [MetricPoint((), 0.0)] * len(chunk.points)
        return MetricFamily("", MetricKind.GAUGE, "", "", points)
    points = [
        MetricPoint(
            tuple(
                (label.name, label.value) for label in each.labels[: family_merger.MAX_LABELS + 1]
            ),
            Distribution(bounds, tuple(each.counts[: family_merger.MAX_BUCKETS + 2]), each.value)
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
        raise MalformedProtobufError(f"malformed {message_type.__name__}: {exc}") from None
