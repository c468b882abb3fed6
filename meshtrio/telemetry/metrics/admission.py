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

from meshtrio.telemetry.families import Distribution, Family, Kind, Labels, Point
from meshtrio.telemetry.metrics.names import label_name, name_of, names_taken_by

_OF_THE_MESH = "mesh_"
"""What the names begin with of those of the mesh's own metrics that plugins have no part in."""
_MAX_NAME = 256
_MAX_TEXT = 1024
"""Characters of a help text; what is longer is cut."""
MAX_LABELS = 64
_MAX_LABEL_VALUE = 4096
MAX_BUCKETS = 256
_OVERHEAD = 64
"""What a sample counts for in addition to its name and its labels: its value, and what it takes in
memory."""
MAX_SIZE = 8 * 1024 * 1024
"""Characters that one source may take in the text. A label is written once per bucket, so that this
can be far more than what a plugin sends."""
MAX_TOTAL_SIZE = 32 * 1024 * 1024
"""The same of all sources together."""


class Reason(Enum):
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


WHY = {
    Reason.NAME: "a name is none, is one of the mesh's own, or clashes with another's",
    Reason.KIND: "they are of another kind than others of that name",
    Reason.LABELS: "a label is there twice, is reserved, or cannot be written",
    Reason.VALUE: "a counter is negative or not finite, or a histogram is inconsistent",
    Reason.DUPLICATE: "there are others with the same name and labels",
    Reason.SIZE: "they are more, or larger, than a scrape has room for",
}


@attrs.define
class _Admitted:
    """A family, and which of its series there are."""

    family: Family
    closed: bool
    """Only the mesh has series of it."""
    points: list[Point] = attrs.field(factory=list)
    series: set[frozenset[tuple[str, str]]] = attrs.field(factory=set)


class Admission:
    """The families of one scrape."""

    def __init__(self, rest: Callable[[], object] = lambda: None) -> None:
        """`rest` is called for each point, for work that is done in a thread."""
        self._rest = rest
        self._admitted: dict[str, _Admitted] = {}
        self._owners: dict[str, str] = {}
        """By name of a family or sample: the family that has it."""
        self._size = 0
        self.examples: dict[Reason, str] = {}
        """Names of families that the last source lost points of, one for each reason."""

    def take(
        self,
        families: Iterable[Family],
        labels: Labels = (),
        *,
        own: bool = False,
    ) -> Counter[Reason]:
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
        left_out: Counter[Reason] = Counter()
        self.examples = {}
        source = _Source(labels, math.inf if own else min(MAX_SIZE, MAX_TOTAL_SIZE - self._size))
        try:
            for family in families:
                lost = self._take(family, source, own=own)
                for reason in lost:
                    self.examples.setdefault(reason, family.name[:_MAX_NAME])
                left_out += lost
        finally:
            self._size += source.size
        return left_out

    def _take(self, family: Family, source: _Source, *, own: bool) -> Counter[Reason]:
        admitted = self._family(family, own=own)
        if isinstance(admitted, Reason):
            return Counter({admitted: max(len(family.points), 1)})
        left_out: Counter[Reason] = Counter()
        for point in family.points:
            self._rest()
            reason = source.admit(point, admitted)
            if reason is not None:
                left_out[reason] += 1
        return left_out

    def families(self) -> list[Family]:
        """All that was admitted."""
        return [attrs.evolve(each.family, points=each.points) for each in self._admitted.values()]

    def _family(self, family: Family, *, own: bool) -> _Admitted | Reason:
        """The family that points of this one go to, or why there is none."""
        if not family.name or len(family.name) > _MAX_NAME:
            return Reason.NAME
        names = names_taken_by(family)
        admitted = self._admitted.get(names[0])
        if admitted is not None:
            if admitted.closed and not own:
                return Reason.NAME
            return admitted if admitted.family.kind is family.kind else Reason.KIND
        if any(name in self._owners for name in names):
            return Reason.NAME
        self._owners.update(dict.fromkeys(names, names[0]))
        described = attrs.evolve(family, text=_one_line(family.text), points=())
        closed = own and names[0].startswith(_OF_THE_MESH)
        admitted = self._admitted[names[0]] = _Admitted(described, closed)
        return admitted


class _Source:
    """What one source may add."""

    def __init__(self, labels: Labels, max_size: float) -> None:
        self.size = 0
        self._labels = labels
        self._taken = {name for name, _ in labels}
        self._max_size = max_size

    def admit(self, point: Point, to: _Admitted) -> Reason | None:
        """Add a point, or say why not."""
        kind = to.family.kind
        if not _is_sound(kind, point.value):
            return Reason.VALUE
        labels = self._labels + tuple(
            (f"exported_{name}" if name in self._taken else name, value)
            for name, value in point.labels
        )
        reason = _check_labels(kind, labels)
        if reason is not None:
            return reason
        named = [(label_name(name), value) for name, value in labels]
        size = _size_of(name_of(to.family), named, point.value)
        if size is None or self.size + size > self._max_size:
            return Reason.SIZE
        # To Prometheus a label with an empty value is none.
        series = frozenset((name, value) for name, value in named if value)
        if series in to.series:
            return Reason.DUPLICATE
        to.series.add(series)
        to.points.append(Point(labels, point.value))
        self.size += size
        return None


def _is_sound(kind: Kind, value: object) -> bool:
    if kind is not Kind.HISTOGRAM:
        return isinstance(value, (int, float)) and (
            kind is Kind.GAUGE or (math.isfinite(value) and value >= 0)
        )
    if not isinstance(value, Distribution) or len(value.counts) != len(value.bounds) + 1:
        return False
    bounds = value.bounds
    return (
        all(map(math.isfinite, bounds))
        and all(a < b for a, b in pairwise(bounds))
        and all(count >= 0 for count in value.counts)
        and math.isfinite(value.total)
        # Without negative values a negative sum cannot be; with them there is none in the text.
        and (value.total >= 0 or value.has_negative)
    )


def _check_labels(kind: Kind, labels: Labels) -> Reason | None:
    names = [label_name(name) for name, _ in labels]
    if len(names) > MAX_LABELS:
        return Reason.SIZE
    if len(set(names)) < len(names) or (kind is Kind.HISTOGRAM and "le" in names):
        return Reason.LABELS
    for name, (_, value) in zip(names, labels, strict=True):
        if len(name) > _MAX_NAME or len(value) > _MAX_LABEL_VALUE:
            return Reason.SIZE
        if name.startswith("__") or not _can_be_written(value):
            return Reason.LABELS
    return None


def _can_be_written(text: str) -> bool:
    """Lone surrogates cannot, which prometheus_client takes into a label."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return "\0" not in text


def _one_line(text: str) -> str:
    text = text[:_MAX_TEXT].encode("utf-8", "replace").decode()
    return "".join(c if c.isprintable() else " " for c in text)


def _size_of(name: str, labels: Sequence[tuple[str, str]], value: object) -> int | None:
    """Characters of its samples, about; None for a histogram with too many buckets."""
    of_one = len(name) + sum(len(n) + len(v) for n, v in labels) + _OVERHEAD
    if not isinstance(value, Distribution):
        return of_one
    samples = len(value.counts) + 2
    return of_one * samples if len(value.counts) <= MAX_BUCKETS else None
