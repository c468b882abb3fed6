"""Equality, hash and text of records."""

from __future__ import annotations

import attrs
import pytest

from meshtrio.util.record import Record


@attrs.frozen(eq=False, repr=False)
class Point(Record):
    x: int
    _y: int = 0


class Plain(Record):
    __slots__ = ("x",)

    def __init__(self, x: object) -> None:
        self.x = x


def test_records_are_compared_by_class_and_values() -> None:
    assert Point(1) == Point(1, 0) != Point(1, 2)
    assert hash(Point(1)) == hash(Point(1, 0))
    assert {Point(1): "a"}[Point(1)] == "a"
    assert Plain(1) == Plain(1) != Plain(2)
    assert Plain(1) != Point(1)
    assert Plain(1) != 1


def test_a_record_of_what_cannot_be_hashed_cannot_be_either() -> None:
    with pytest.raises(TypeError, match="unhashable"):
        hash(Plain([]))


def test_a_record_shows_its_values() -> None:
    assert repr(Point(1, 2)) == "Point(x=1, _y=2)"
    assert repr(Plain("a")) == "Plain(x='a')"
