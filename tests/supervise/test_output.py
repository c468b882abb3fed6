"""Cutting output into lines."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshtrio.supervise.output import MAX_LINE, LineSplitter


def split(*pieces: bytes) -> list[tuple[str, int]]:
    splitter = LineSplitter()
    lines = [line for piece in pieces for line in splitter.feed(piece)]
    return [*lines, *splitter.finish()]


@pytest.mark.parametrize(
    ("data", "lines"),
    [
        (b"", []),
        (b"one\n", ["one"]),
        (b"one", ["one"]),
        (b"one\ntwo\n", ["one", "two"]),
        (b"\n\n", ["", ""]),
        (b"dos\r\n", ["dos"]),
        (b"\xff\n", ["\ufffd"]),
        ("ü\n".encode(), ["ü"]),
    ],
)
def test_lines(data: bytes, lines: list[str]) -> None:
    assert [line for line, _ in split(data)] == lines
    assert [line for line, _ in split(*(data[i : i + 1] for i in range(len(data))))] == lines


@given(st.binary(max_size=200), st.lists(st.integers(0, 200)))
def test_any_split_gives_the_same_lines(data: bytes, cuts: list[int]) -> None:
    edges = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    pieces = [data[a:b] for a, b in itertools.pairwise(edges)]
    assert split(*pieces) == split(data)


def test_a_long_line_is_cut_and_what_is_gone_is_counted() -> None:
    chunks = [b"x" * 100_000] * 50
    assert split(*chunks, b"\nnext\n") == [("x" * MAX_LINE, 5_000_000 - MAX_LINE), ("next", 0)]


def test_a_line_of_just_the_length_is_whole() -> None:
    assert split(b"x" * MAX_LINE + b"\n") == [("x" * MAX_LINE, 0)]
