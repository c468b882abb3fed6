"""Splitting output into lines, its rate limit, and the last lines."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshtrio.config import OutputConfig
from meshtrio.contract import MAX_LINE_LENGTH
from meshtrio.supervisor.process.output.output_lines import (
    LineBuffer,
    LineSplitter,
    OutputBlock,
    OutputLine,
    RateLimiter,
    parse_json_fields,
)


def split(*pieces: bytes) -> list[tuple[str, int]]:
    splitter, lines = LineSplitter(), []
    for piece in pieces:
        splitter.feed(piece)
        while (line := splitter.next_line()) is not None:
            lines.append(line)
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
    assert split(*chunks, b"\nnext\n") == [
        ("x" * MAX_LINE_LENGTH, 5_000_000 - MAX_LINE_LENGTH),
        ("next", 0),
    ]


def test_a_line_of_maximum_length_is_kept_whole() -> None:
    assert split(b"x" * MAX_LINE_LENGTH + b"\n") == [("x" * MAX_LINE_LENGTH, 0)]


def test_a_line_buffer_keeps_the_last_lines_within_its_size() -> None:
    ring = LineBuffer()
    for number in range(10):
        ring.append(OutputLine(number, 1, "stdout", str(number)), 3)
    assert [line.text for line in ring.lines()] == ["7", "8", "9"]
    for _ in range(100):
        ring.append(OutputLine(0, 1, "stdout", "x" * 8192), 1000)
    assert sum(len(line.text) for line in ring.lines()) == 256 * 1024


@given(st.binary(max_size=200), st.lists(st.integers(0, 200)), st.integers(0, 30))
def test_a_block_has_the_lines_that_were_not_taken(data: bytes, cuts: list[int], n: int) -> None:
    edges = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    splitter, found = LineSplitter(), []
    for a, b in itertools.pairwise(edges):
        splitter.feed(data[a:b])
        while len(found) < n and (line := splitter.next_line()) is not None:
            found.append(line[0])
        if len(found) >= n:
            block, count = splitter.next_block()
            lines = [
                line.text for line in OutputBlock(0, 1, "stdout", block, count).last_lines(count)
            ]
            assert len(lines) == count
            found += lines
    assert [*found, *(line for line, _ in splitter.finish())] == [line for line, _ in split(data)]


def test_a_line_buffer_keeps_the_last_lines_of_blocks() -> None:
    ring = LineBuffer()
    for number in range(3):
        ring.append(OutputLine(number, 1, "stdout", f"line {number}"), 5)
    ring.append(OutputBlock(3, 1, "stdout", b"\n".join(b"%d" % n for n in range(1000)), 1000), 5)
    assert [line.text for line in ring.lines()] == ["995", "996", "997", "998", "999"]
    ring.append(OutputLine(4, 1, "stdout", "after"), 5)
    assert [line.text for line in ring.lines()] == ["996", "997", "998", "999", "after"]
    for _ in range(100):
        ring.append(OutputBlock(5, 1, "stderr", b"\n" * 65535, 65536), 1_000_000)
    assert len(ring.lines()) == 256 * 1024


def test_a_line_buffer_of_no_lines_keeps_none() -> None:
    ring = LineBuffer()
    ring.append(OutputLine(0, 1, "stdout", "x"), 0)
    assert ring.lines() == ()


def test_a_rate_limiter_admits_a_burst_and_then_its_rate() -> None:
    valve = RateLimiter(OutputConfig(lines_per_second=10, burst=3))
    assert [valve.try_acquire(1.0) for _ in range(5)] == [True] * 3 + [False] * 2
    assert valve.drain_dropped() == 2
    assert valve.drain_dropped() == 0
    assert [valve.try_acquire(1.25) for _ in range(3)] == [True, True, False]


@pytest.mark.parametrize(
    ("line", "fields"),
    [
        ('{"level": "info", "n": 1}', {"level": "info", "n": 1}),
        ("{}", {}),
        ("plain", None),
        ("{broken}", None),
        ('{"a": 1', None),
        ("[1]", None),
        ("", None),
        ('{"a":' * 4000 + "1" + "}" * 4000, None),
        ('{"a":' * 501 + "1" + "}" * 501, None),
        ('{"a":' + "[" * 500 + "]" * 500 + "}", None),
        ('{"a": [' + "{}, " * 600 + '"[[["]}', {"a": [{}] * 600 + ["[[["]}),
    ],
    ids=lambda value: str(value)[:20],
)
def test_a_line_of_json_gives_its_fields(line: str, fields: object) -> None:
    assert parse_json_fields(line) == fields


def test_a_line_of_json_may_be_nested_500_deep() -> None:
    found = parse_json_fields('{"a":' * 500 + "1" + "}" * 500)
    assert found is not None
    assert list(found) == ["a"]


def test_dropped_lines_are_reported_once_a_second() -> None:
    valve = RateLimiter(OutputConfig(lines_per_second=1000, burst=1))
    times = [millisecond / 1000 for millisecond in range(3000) for _ in range(100)]
    told = [valve.drain_dropped(now) for now in times if valve.try_acquire(now)]
    admitted = len(told)
    told.append(valve.drain_dropped())
    assert len([count for count in told if count]) == 4
    assert sum(told) == len(times) - admitted


def test_dropped_lines_are_reported_before_the_next_line() -> None:
    valve = RateLimiter(OutputConfig(lines_per_second=100, burst=10))
    admitted = [valve.try_acquire(0.2) for _ in range(100)]
    assert valve.drain_dropped(0.2) == admitted.count(False)
    assert not valve.try_acquire(0.2)
    assert valve.try_acquire(0.5)
    assert valve.drain_dropped(0.5) == 1
