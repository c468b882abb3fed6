"""What of the metrics of several sources goes together into one text that can be read. Pure.

A scrape is read as a whole or not at all: one name with two types, one label twice, one counter
that is NaN, and Prometheus has nothing of the mesh or of any plugin. So each source is held to what
the text can bear. What comes first stays: the mesh's own, then plugins in the order of their names.
What does not fit is left out point by point, and counted with the reason.

Source: OpenMetrics 1.0.0 ("Overall Structure", "MetricFamily", "Metric types"), and what Prometheus
reserves of it.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from enum import Enum
from itertools import pairwise

import attrs

from meshtrio.telemetry.metric_families import (
    Distribution,
    Labels,
    MetricFamily,
    MetricKind,
    MetricPoint,
)
from meshtrio.telemetry.metrics.prometheus_names import (
    prometheus_label_name,
    prometheus_name,
    reserved_names,
)

_MESH_NAME_PREFIX = "mesh_"
"""What the names begin with of those of the mesh's own metrics that plugins have no part in."""
_MAX_NAME_LENGTH = 256
_MAX_HELP_LENGTH = 1024
"""Characters of a help text; what is longer is cut."""
MAX_LABELS = 64
_MAX_LABEL_VALUE_LENGTH = 4096
MAX_BUCKETS = 256
_SAMPLE_OVERHEAD = 64
"""What a sample counts for in addition to its name and its labels: its value, and what it takes in
memory."""
MAX_SOURCE_SIZE = 8 * 1024 * 1024
"""Characters that one source may take in the text. A label is written once per bucket, so that this
can be far more than what a plugin sends."""
MAX_TOTAL_SIZE = 32 * 1024 * 1024
"""The same of all sources together."""


class DropReason(Enum):
    """Why points are left out."""

    NAME = "name"
    """The name is none, is reserved, or clashes with that of another metric."""
    KIND = "kind"
    """Others have a metric of that name that is of another kind, such as a gauge."""
    LABELS = "labels"
    """A label is there twice, is reserved, or cannot be written."""
    VALUE = "value"
    """A counter is negative or not finite, or a histogram is inconsistent."""
    DUPLICATE = "duplicate"
    """There is a series with the same name and labels."""
    SIZE = "size"
    """There is more than fits: of names, labels, buckets, or altogether."""


DROP_REASON_TEXT = {
    DropReason.NAME: "a name is none, is one of the mesh's own, or clashes with another's",
    DropReason.KIND: "they are of another kind than others of that name",
    DropReason.LABELS: "a label is there twice, is reserved, or cannot be written",
    DropReason.VALUE: "a counter is negative or not finite, or a histogram is inconsistent",
    DropReason.DUPLICATE: "there are others with the same name and labels",
    DropReason.SIZE: "they are more, or larger, than a scrape has room for",
}


@attrs.define
class _MergedFamily:
    """A family, and which of its series there are."""

    family: MetricFamily
    is_mesh_only: bool
    """Only the mesh has series of it."""
    points: list[MetricPoint] = attrs.field(factory=list)
    series: set[frozenset[tuple[str, str]]] = attrs.field(factory=set)


class FamilyMerger:
    """The families of one scrape."""

    def __init__(self, checkpoint: Callable[[], object] = lambda: None) -> None:
        """`rest` is called for each point, for work that is done in a thread."""
        self._checkpoint = checkpoint
        self._merged: dict[str, _MergedFamily] = {}
        self._family_by_name: dict[str, str] = {}
        """By name of a family or sample: the family that has it."""
        self._size = 0
        self.dropped_examples: dict[DropReason, str] = {}
        """Names of families that the last source lost points of, one for each reason."""

    def merge(
        self,
        families: Iterable[MetricFamily],
        labels: Labels = (),
        *,
        is_mesh: bool = False,
    ) -> Counter[DropReason]:
        """Admit what fits of a source, each point with more labels.

        Args:
            families: What the source gives.
            labels: What its points get before their own labels. One of its own with such a name is
                renamed to "exported_" and the name, as Prometheus does.
            own: Whether the source is the mesh itself, which comes first.

        Returns:
            How many points were left out, by reason. A family that cannot be there counts as one
            point if it has none.
        """
        left_out: Counter[DropReason] = Counter()
        self.dropped_examples = {}
        source = _SourceQuota(
            labels, math.inf if is_mesh else min(MAX_SOURCE_SIZE, MAX_TOTAL_SIZE - self._size)
        )
        try:
            for family in families:
                lost = self._merge_family(family, source, is_mesh=is_mesh)
                for reason in lost:
                    self.dropped_examples.setdefault(reason, family.name[:_MAX_NAME_LENGTH])
                left_out += lost
        finally:
            self._size += source.size
        return left_out

    def _merge_family(
        self, family: MetricFamily, source: _SourceQuota, *, is_mesh: bool
    ) -> Counter[DropReason]:
        admitted = self._find_or_add_family(family, is_mesh=is_mesh)
        if isinstance(admitted, DropReason):
            return Counter({admitted: max(len(family.points), 1)})
        left_out: Counter[DropReason] = Counter()
        for point in family.points:
            self._checkpoint()
            reason = source.add_point(point, admitted)
            if reason is not None:
                left_out[reason] += 1
        return left_out

    def families(self) -> list[MetricFamily]:
        """All that was admitted."""
        return [attrs.evolve(each.family, points=each.points) for each in self._merged.values()]

    def _find_or_add_family(
        self, family: MetricFamily, *, is_mesh: bool
    ) -> _MergedFamily | DropReason:
        """The family that points of this one go to, or why there is none."""
        if not family.name or len(family.name) > _MAX_NAME_LENGTH:
            return DropReason.NAME
        names = reserved_names(family)
        admitted = self._merged.get(names[0])
        if admitted is not None:
            if admitted.is_mesh_only and not is_mesh:
                return DropReason.NAME
            return admitted if admitted.family.kind is family.kind else DropReason.KIND
        if any(name in self._family_by_name for name in names):
            return DropReason.NAME
        self._family_by_name.update(dict.fromkeys(names, names[0]))
        described = attrs.evolve(family, text=_to_single_line(family.text), points=())
        closed = is_mesh and names[0].startswith(_MESH_NAME_PREFIX)
        admitted = self._merged[names[0]] = _MergedFamily(described, closed)
        return admitted


class _SourceQuota:
    """What one source may add."""

    def __init__(self, labels: Labels, max_size: float) -> None:
        self.size = 0
        self._labels = labels
        self._reserved_labels = {name for name, _ in labels}
        self._max_size = max_size

    def add_point(self, point: MetricPoint, merged: _MergedFamily) -> DropReason | None:
        """Add a point, or say why not."""
        kind = merged.family.kind
        if not _is_valid_value(kind, point.value):
            return DropReason.VALUE
        labels = self._labels + tuple(
            (f"exported_{name}" if name in self._reserved_labels else name, value)
            for name, value in point.labels
        )
        reason = _check_labels(kind, labels)
        if reason is not None:
            return reason
        named = [(prometheus_label_name(name), value) for name, value in labels]
        size = _estimate_size(prometheus_name(merged.family), named, point.value)
        if size is None or self.size + size > self._max_size:
            return DropReason.SIZE
        # To Prometheus a label with an empty value is none.
        series = frozenset((name, value) for name, value in named if value)
        if series in merged.series:
            return DropReason.DUPLICATE
        merged.series.add(series)
        merged.points.append(MetricPoint(labels, point.value))
        self.size += size
        return None


def _is_valid_value(kind: MetricKind, value: object) -> bool:
    if kind is not MetricKind.HISTOGRAM:
        return isinstance(value, (int, float)) and (
            kind is MetricKind.GAUGE or (math.isfinite(value) and value >= 0)
        )
    if not isinstance(value, Distribution) or len(value.counts) != len(value.bounds) + 1:
        return False
    bounds = value.bounds
    return (
        all(map(math.isfinite, bounds))
        and all(a < b for a, b in pairwise(bounds))
        and all(count >= 0 for count in value.counts)
        and math.isfinite(value.sum)
        # Without negative values a negative sum cannot be; with them there is none in the text.
        and (value.sum >= 0 or value.has_negative_buckets)
    )


def _check_labels(kind: MetricKind, labels: Labels) -> DropReason | None:
    names = [prometheus_label_name(name) for name, _ in labels]
    if len(names) > MAX_LABELS:
        return DropReason.SIZE
    if len(set(names)) < len(names) or (kind is MetricKind.HISTOGRAM and "le" in names):
        return DropReason.LABELS
    for name, (_, value) in zip(names, labels, strict=True):
        if len(name) > _MAX_NAME_LENGTH or len(value) > _MAX_LABEL_VALUE_LENGTH:
            return DropReason.SIZE
        if name.startswith("__") or not _is_encodable(value):
            return DropReason.LABELS
    return None


def _is_encodable(text: str) -> bool:
    """Lone surrogates cannot, which prometheus_client takes into a label."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return "\0" not in text


def _to_single_line(text: str) -> str:
    text = text[:_MAX_HELP_LENGTH].encode("utf-8", "replace").decode()
    return "".join(c if c.isprintable() else " " for c in text)


def _estimate_size(name: str, labels: Sequence[tuple[str, str]], value: object) -> int | None:
    """Characters of its samples, about; None for a histogram with too many buckets."""
    of_one = len(name) + sum(len(n) + len(v) for n, v in labels) + _SAMPLE_OVERHEAD
    if not isinstance(value, Distribution):
        return of_one
    samples = len(value.counts) + 2
    return of_one * samples if len(value.counts) <= MAX_BUCKETS else None
