"""Whatever is to be logged becomes one line of JSON, of a bounded length."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshtrio.telemetry.logs.formatters import format_json_line

MOST = 8192


class Unspeakable:
    def __str__(self) -> str:
        raise ValueError("no")


def read(line: str) -> Any:
    """Parse lines strictly, taking each of Unicode's line ends for one."""
    assert len(line) <= MOST
    assert line.isascii()
    assert len(line.splitlines()) == 1

    def no(name: str) -> None:
        raise AssertionError(f"{name} is no JSON")

    found = json.loads(line, parse_constant=no)
    assert json.dumps(found, ensure_ascii=False).encode()  # there is no half of a pair in it
    return found


def circle() -> list[Any]:
    found: list[Any] = []
    found.extend([found] * 10)
    return found


@pytest.mark.parametrize(
    ("value", "told"),
    [
        ("a\nb\x00\x85\u2028", "a\nb\x00\x85\u2028"),
        ("half \ud800 and whole \ud83d\ude00", "half \ufffd and whole \U0001f600"),
        (math.nan, "NaN"),
        (-math.inf, "-Infinity"),
        (2**64, 2**64),
        (b"\xff\0", "\ufffd\0"),
        ({1: True, (1, 2): None}, {"1": True, "(1, 2)": None}),
        ((1, {2}), [1, [2]]),
        (Path("/x"), "/x"),
        (Unspeakable(), "<Unspeakable that cannot be shown: ValueError>"),
    ],
    ids=lambda value: str(type(value).__name__),
)
def test_a_value_is_told_in_what_json_has(value: object, told: object) -> None:
    assert read(format_json_line({"a": value}, MOST)) == {"a": told}
    assert read(format_json_line({}, MOST, {"a": [value]})) == {"a": [told]}


@pytest.mark.parametrize(
    "value",
    [
        "x" * 1_000_000,
        "\0" * 1_000_000,
        "\U0001f600" * 100_000,
        10**100_000,
        ["y" * 100] * 10_000,
        {str(number): number for number in range(100_000)},
        circle(),
        [[[[[[[[[[[[1]]]]]]]]]]]],
    ],
    ids=lambda value: f"{type(value).__name__}-{str(value)[:3] if isinstance(value, str) else ''}",
)
def test_what_is_too_much_is_cut(value: object) -> None:
    values = {"level": "INFO", "message": "m", "exception": value}
    assert read(format_json_line(values, MOST))["level"] == "INFO"
    found = read(format_json_line({"level": "INFO", "message": "m"}, MOST, {"a": value}))
    assert (found["level"], found["message"]) == ("INFO", "m")


def test_of_an_exception_the_end_is_kept_and_of_a_message_the_beginning() -> None:
    values = {"message": "first" + "x" * 9000, "exception": "y" * 9000 + "last"}
    found = read(format_json_line(values, MOST))
    assert found["message"].startswith("firstxx")
    assert found["message"].endswith(" more characters)")
    assert found["exception"].startswith("… (")
    assert found["exception"].endswith("yylast")


def test_names_that_are_taken_are_told_with_a_sign() -> None:
    assert read(format_json_line({"level": "INFO"}, MOST, {"level": 3})) == {
        "level": "INFO",
        "level_": 3,
    }


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.integers(), inner),
    max_leaves=50,
)


@given(st.dictionaries(st.sampled_from(["level", "message", "fields"]), VALUES), VALUES)
def test_nothing_makes_more_than_one_line(values: dict[str, Any], rest: object) -> None:
    assert isinstance(read(format_json_line(values, MOST, {"rest": rest})), dict)
