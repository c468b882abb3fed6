"""Metrics as a peer tells them, as values that can be compared."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import attrs

Labels = tuple[tuple[str, str], ...]
SeriesKey = tuple[str, Labels]
"""The name of a metric and the labels of one of its series."""


@attrs.frozen
class Instrument:
    """The properties that all series of a metric share."""

    kind: str
    unit: str
    bounds: tuple[float, ...]
    labels: frozenset[str]


@attrs.frozen
class SeriesValue:
    """The value of a series: of durations only their number, since they never are the same."""

    count: int
    """Of a counter its value."""
    total: float | None = None
    """Of sizes, in bytes."""
    buckets: tuple[int, ...] = ()
    """The same, by the bounds of their metric."""

    def __sub__(self, other: SeriesValue) -> SeriesValue:
        if self.total is None or other.total is None:
            return SeriesValue(self.count - other.count)
        buckets = tuple(a - b for a, b in zip(self.buckets, other.buckets, strict=True))
        return SeriesValue(self.count - other.count, self.total - other.total, buckets)

    def __str__(self) -> str:
        return str(self.count) if self.total is None else f"{self.count}, {self.total:g} bytes"


Series = dict[SeriesKey, SeriesValue]


def parse_series(families: Iterable[Any], names: dict[str, str]) -> Series:
    """Parse the series of a peer; `names` replace what differs in each run, such as paths."""
    found = {}
    for family in families:
        for point in family["points"]:
            labels = tuple(
                sorted((n, _replace_names(v, names)) for n, v in point["labels"].items())
            )
            found[family["name"], labels] = _value(family, point)
    return found


def _replace_names(value: str, names: dict[str, str]) -> str:
    for text, name in names.items():
        value = value.replace(text, name)
    return value


def _value(family: Any, point: Any) -> SeriesValue:
    if family["kind"] != "histogram":
        return SeriesValue(int(point["sum"]))
    counts = tuple(point["counts"])
    if family["unit"] == "s":
        return SeriesValue(sum(counts))
    return SeriesValue(sum(counts), point["sum"], counts)


def subtract(before: Series, after: Series) -> Series:
    """Return the difference of two readings."""
    found = {key: value - before[key] if key in before else value for key, value in after.items()}
    return {key: value for key, value in found.items() if value.count}


def parse_instruments(families: Iterable[Any]) -> dict[str, Instrument]:
    """Return the instruments that have series."""
    return {
        family["name"]: Instrument(
            family["kind"],
            family["unit"],
            tuple(family["bounds"]),
            frozenset(name for point in family["points"] for name in point["labels"]),
        )
        for family in families
        if family["points"]
    }


def replace_label_values(series: Series, name: str, values: dict[str, str]) -> Series:
    """Replace values of a label; fails if series become equal."""
    found: Series = {}
    for (metric, labels), value in series.items():
        key = metric, tuple((n, values.get(v, v) if n == name else v) for n, v in labels)
        assert key not in found, key
        found[key] = value
    return found
