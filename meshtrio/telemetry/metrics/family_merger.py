"""Merges the families of several sources into one exposition that Prometheus accepts. Pure.

Prometheus rejects a scrape as a whole: with one name of two types, one duplicate label or one
counter that is NaN it has no metrics of the mesh or of any plugin. So each point is validated.
Earlier sources take precedence: the mesh, then plugins by name. Points that are invalid or in
conflict with an earlier source are dropped, and counted by reason.

Source: OpenMetrics 1.0.0 ("Overall Structure", "MetricFamily", "Metric types"), and what Prometheus
reserves of it.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from enum import Enum
from itertools import pairwise, repeat

import attrs

from meshtrio.telemetry.metric_families import (
    Distribution,
    Labels,
    MetricFamily,
    MetricKind,
    MetricPoint,
)
from meshtrio.telemetry.metrics import prometheus_names
from meshtrio.util.text import replace_surrogates

_MESH_NAME_PREFIX = "mesh_"
"""Prefix of the metrics that only the mesh may have."""
_MAX_NAME_LENGTH = 256
_MAX_HELP_LENGTH = 1024
"""Maximum characters of a help text; longer ones are truncated."""
MAX_LABELS = 64
_MAX_LABEL_VALUE_LENGTH = 4096
MAX_BUCKETS = 256
_SAMPLE_OVERHEAD = 64
"""Size of a sample in addition to its name and labels: its value, and memory overhead."""
MAX_SOURCE_SIZE = 8 * 1024 * 1024
"""Maximum characters of one source in the exposition. Labels are repeated for each bucket, so this
can be far more than what a plugin sent."""
MAX_TOTAL_SIZE = 32 * 1024 * 1024
"""Maximum characters of all sources together."""


class DropReason(Enum):
    """Why points are dropped: a label of the metric that counts them, and a text for the log."""

    NAME = "name", "the name is invalid, reserved, or in conflict with another metric"
    KIND = "kind", "another source has a metric of this name and another kind"
    LABELS = "labels", "a label is duplicate, reserved, or cannot be encoded"
    VALUE = "value", "a counter is negative or not finite, or a histogram is inconsistent"
    DUPLICATE = "duplicate", "another series has the same name and labels"
    SIZE = "size", "the limits on the size of a scrape are exceeded"

    def __init__(self, label: str, text: str) -> None:
        self.label, self.text = label, text


@attrs.define
class _MergedFamily:
    """A family of the exposition, and the series it has so far."""

    family: MetricFamily
    is_mesh_only: bool
    """Whether only the mesh may add series."""
    points: list[MetricPoint] = attrs.field(factory=list)
    series: set[frozenset[tuple[str, str]]] = attrs.field(factory=set)
    """Labels of the points, as Prometheus compares them."""


class FamilyMerger:
    """Merges the families of one scrape."""

    def __init__(self, checkpoint: Callable[[], object] = lambda: None) -> None:
        """`checkpoint` is called for each point, so that a thread can release the GIL."""
        self._checkpoint = checkpoint
        self._merged: dict[str, _MergedFamily] = {}
        self._family_by_name: dict[str, str] = {}
        """Maps each reserved name of a family to the family's name."""
        self._size = 0
        self.dropped_examples: dict[DropReason, str] = {}
        """The name of one family of the last source that lost points, for each reason."""

    def merge(
        self, families: Iterable[MetricFamily], labels: Labels = (), *, is_mesh: bool = False
    ) -> Counter[DropReason]:
        """Add the points of a source that are valid, with more labels before their own.

        A point's own label of the same name gets the prefix "exported_", as in Prometheus. Returns
        the number of dropped points by reason; a dropped family without points counts as one.
        """
        dropped: Counter[DropReason] = Counter()
        self.dropped_examples = {}
        max_size = math.inf if is_mesh else min(MAX_SOURCE_SIZE, MAX_TOTAL_SIZE - self._size)
        source = _SourceQuota(labels, max_size)
        try:
            for family in families:
                for reason in self._merge_family(family, source, is_mesh=is_mesh):
                    dropped[reason] += 1
                    self.dropped_examples.setdefault(reason, family.name[:_MAX_NAME_LENGTH])
        finally:
            self._size += source.size
        return dropped

    def _merge_family(
        self, family: MetricFamily, source: _SourceQuota, *, is_mesh: bool
    ) -> Iterator[DropReason]:
        """Add the points that are valid; yield the reasons for which the others are dropped."""
        merged = self._find_or_add(family, is_mesh=is_mesh)
        if isinstance(merged, DropReason):
            yield from repeat(merged, max(len(family.points), 1))
            return
        for point in family.points:
            self._checkpoint()
            reason = source.add_point(point, merged)
            if reason is not None:
                yield reason

    def families(self) -> list[MetricFamily]:
        """Return the merged families."""
        return [attrs.evolve(each.family, points=each.points) for each in self._merged.values()]

    def _find_or_add(self, family: MetricFamily, *, is_mesh: bool) -> _MergedFamily | DropReason:
        """Return the merged family for the points of a family, or why they have to be dropped."""
        if not family.name or len(family.name) > _MAX_NAME_LENGTH:
            return DropReason.NAME
        names = prometheus_names.reserved_names(family)
        merged = self._merged.get(names[0])
        if merged is not None:
            if merged.is_mesh_only and not is_mesh:
                return DropReason.NAME
            return merged if merged.family.kind is family.kind else DropReason.KIND
        if any(name in self._family_by_name for name in names):
            return DropReason.NAME
        self._family_by_name.update(dict.fromkeys(names, names[0]))
        described = attrs.evolve(family, text=_to_single_line(family.text), points=[])
        closed = is_mesh and names[0].startswith(_MESH_NAME_PREFIX)
        merged = self._merged[names[0]] = _MergedFamily(described, closed)
        return merged


class _SourceQuota:
    """Adds the points of one source, up to its maximum size."""

    def __init__(self, labels: Labels, max_size: float) -> None:
        self.size = 0
        self._labels = labels
        self._reserved_labels = {name for name, _ in labels}
        self._max_size = max_size

    def add_point(self, point: MetricPoint, merged: _MergedFamily) -> DropReason | None:
        """Add a point; return the reason if it is dropped instead."""
        kind = merged.family.kind
        if not _is_valid_value(kind, point.value):
            return DropReason.VALUE
        labels = self._labels + tuple(
            (f"exported_{name}" if name in self._reserved_labels else name, value)
            for name, value in point.labels
        )
        named = [(prometheus_names.label_name(name), value) for name, value in labels]
        reason = _check_labels(kind, named)
        if reason is not None:
            return reason
        size = _estimate_size(prometheus_names.metric_name(merged.family), named, point.value)
        if size is None or self.size + size > self._max_size:
            return DropReason.SIZE
        # Prometheus treats a label with an empty value as absent.
        series = frozenset((name, value) for name, value in named if value)
        if series in merged.series:
            return DropReason.DUPLICATE
        merged.series.add(series)
        merged.points.append(MetricPoint(labels, point.value))
        self.size += size
        return None


def _is_valid_value(kind: MetricKind, value: object) -> bool:
    if kind is not MetricKind.HISTOGRAM:
        is_gauge = kind is MetricKind.GAUGE
        return isinstance(value, (int, float)) and (is_gauge or 0 <= value < math.inf)
    if not isinstance(value, Distribution) or len(value.counts) != len(value.bounds) + 1:
        return False
    bounds = value.bounds
    return (
        all(map(math.isfinite, bounds))
        and all(a < b for a, b in pairwise(bounds))
        and all(count >= 0 for count in value.counts)
        and math.isfinite(value.sum)
        # A negative sum needs negative values, with which the sum is not exposed.
        and (value.sum >= 0 or value.has_negative_buckets)
    )


def _check_labels(kind: MetricKind, labels: Sequence[tuple[str, str]]) -> DropReason | None:
    names = {name for name, _ in labels}
    if len(labels) > MAX_LABELS:
        return DropReason.SIZE
    if len(names) < len(labels) or (kind is MetricKind.HISTOGRAM and "le" in names):
        return DropReason.LABELS
    for name, value in labels:
        if len(name) > _MAX_NAME_LENGTH or len(value) > _MAX_LABEL_VALUE_LENGTH:
            return DropReason.SIZE
        # prometheus_client accepts lone surrogates, which cannot be encoded.
        if name.startswith("__") or "\0" in value or replace_surrogates(value) != value:
            return DropReason.LABELS
    return None


def _to_single_line(text: str) -> str:
    text = text[:_MAX_HELP_LENGTH].encode("utf-8", "replace").decode()
    return "".join(c if c.isprintable() else " " for c in text)


def _estimate_size(name: str, labels: Sequence[tuple[str, str]], value: object) -> int | None:
    """Estimate the characters of a point's samples; None for too many buckets."""
    sample_size = len(name) + sum(len(n) + len(v) for n, v in labels) + _SAMPLE_OVERHEAD
    if not isinstance(value, Distribution):
        return sample_size
    samples = len(value.counts) + 2
    return sample_size * samples if len(value.counts) <= MAX_BUCKETS else None
