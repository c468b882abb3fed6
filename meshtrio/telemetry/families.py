"""Metrics as values: what is told of them, to whoever exposes or collects them.

Names and units are those of OpenTelemetry ("grpc.server.call.duration", "s"), as gRFC A66 has them;
what Prometheus makes of them is a matter of `exposition`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
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


def merged(groups: Iterable[Sequence[Family]], leave_out: Callable[[Family], None]) -> list[Family]:
    """Families of the same name as one, with all of their points.

    `leave_out` is called with each that is of another kind than the first of its name: a name has
    one in Prometheus.
    """
    found: dict[str, Family] = {}
    points: dict[str, list[Point]] = {}
    for families in groups:
        for family in families:
            if family.kind is found.setdefault(family.name, family).kind:
                points.setdefault(family.name, []).extend(family.points)
            else:
                leave_out(family)
    return [attrs.evolve(family, points=points[name]) for name, family in found.items()]


def labelled(families: Sequence[Family], more: Labels) -> list[Family]:
    """The same with labels put before those they have; a label of the same name is kept as
    "exported_" and its name, as Prometheus does."""
    taken = {name for name, _ in more}

    def relabelled(point: Point) -> Point:
        own = tuple((f"exported_{n}" if n in taken else n, value) for n, value in point.labels)
        return Point(more + own, point.value)

    return [attrs.evolve(each, points=[*map(relabelled, each.points)]) for each in families]
