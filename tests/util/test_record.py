"""Equality, hash and text of records."""

from __future__ import annotations

import copy
import pickle
from inspect import signature
from typing import Any

import attrs
import pytest

from meshtrio.util.record import FrozenRecord, Record


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


class Frozen(FrozenRecord):
    x: int
    y: int = 0


def test_a_frozen_record_cannot_be_changed() -> None:
    record = Frozen(1)
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        record.x = 2  # type: ignore[misc]
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        del record.x
    with pytest.raises(AttributeError):
        record.z = 2  # type: ignore[attr-defined]
    assert record == Frozen(1, 0)


def test_a_frozen_record_is_replaced_and_copied() -> None:
    record = Frozen(1, 2)
    assert record.replace(y=3) == Frozen(1, 3)
    assert record == Frozen(1, 2)
    with pytest.raises(TypeError, match="z"):
        record.replace(z=3)
    for copied in (copy.copy(record), copy.deepcopy(record), pickle.loads(pickle.dumps(record))):
        assert copied == record
        assert copied is not record


def test_the_constructor_of_a_frozen_record() -> None:
    assert Frozen(1) == Frozen(x=1) == Frozen(1, y=0) != Frozen(1, 1)
    assert repr(Frozen(1, y=2)) == "Frozen(x=1, y=2)"
    assert str(signature(Frozen)) == "(x: 'int', y: 'int' = 0)"


@pytest.mark.parametrize(
    ("args", "keywords", "text"),
    [
        ((), {}, "missing a required argument: 'x'"),
        ((), {"y": 1}, "missing a required argument: 'x'"),
        ((1,), {"x": 1}, "got multiple values for argument 'x'"),
        ((1, 2, 3), {}, "takes 2 arguments but 3 were given"),
        ((1,), {"z": 1}, "got an unexpected keyword argument 'z'"),
    ],
)
def test_wrong_arguments_of_a_frozen_record(
    args: tuple[Any, ...], keywords: dict[str, Any], text: str
) -> None:
    with pytest.raises(TypeError, match=rf"^Frozen.__init__\(\) {text}$"):
        Frozen(*args, **keywords)
