"""What a plugin writes to stdout and stderr: cut into lines, in bounded memory."""

from __future__ import annotations

import json
import math
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import attrs
import trio

from meshtrio.config import OutputConfig
from meshtrio.contract import LONGEST_LINE
from meshtrio.wire.budget import Budget

MAX_LINE = LONGEST_LINE

_READ_SIZE = 32 * 1024
_TOLD_EVERY = 1.0
_MOST_KEPT = 256 * 1024
"""Characters of an instance's last lines, however many lines that is."""
_MAX_DEPTH = 500
"""Nesting of a line of structured logging. Releases of Python differ in what they can parse: 3.11
fails at 1,000 levels or fewer, 3.13 at about 10,000."""


@attrs.frozen
class Line:
    """One line of a plugin's output, at `at` (seconds, the mesh's clock)."""

    at: float
    pid: int
    stream: str
    text: str


class Ring:
    """The last lines of an instance, over all its lives."""

    def __init__(self) -> None:
        self._lines: deque[Line] = deque()
        self._size = 0

    def keep(self, line: Line, most: int) -> None:
        """Keep a line, and `most` in all."""
        self._lines.append(line)
        self._size += len(line.text)
        while len(self._lines) > most or self._size > _MOST_KEPT:
            self._size -= len(self._lines.popleft().text)

    def lines(self) -> tuple[Line, ...]:
        return tuple(self._lines)


class Valve:
    """Lets a plugin's lines through as fast as its config allows, and counts what it drops."""

    def __init__(self, config: OutputConfig) -> None:
        self._budget = Budget(config.burst, config.lines_per_second)
        self._dropped = 0
        self._told_at = -math.inf

    def admits(self, now: float) -> bool:
        admitted = self._budget.take(now)
        self._dropped += not admitted
        return admitted

    def take_dropped(self, now: float = math.inf) -> int:
        """How many were dropped since the last time. While it floods, 0 if that was within the last
        second: of a flood there shall be no flood of notes."""
        flooding = not self._budget.has_more
        if not self._dropped or (flooding and now - self._told_at < _TOLD_EVERY):
            return 0
        dropped, self._dropped, self._told_at = self._dropped, 0, now
        return dropped


def fields_of(line: str) -> Mapping[str, Any] | None:
    """What a line of structured logging says, None for one that is not a JSON object."""
    if not (line.startswith("{") and line.endswith("}")):
        return None
    try:
        fields = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(fields, dict) or _is_deeper(line, fields, _MAX_DEPTH):
        return None
    return fields


def _is_deeper(line: str, value: object, depth: int) -> bool:
    """Whether objects and lists are nested more than `depth` deep in a value parsed from a line."""
    if line.count("{") + line.count("[") <= depth:
        return False
    level: list[Any] = [value]
    for _ in range(depth):
        inner = [each.values() if isinstance(each, dict) else each for each in level]
        level = [each for values in inner for each in values if isinstance(each, (dict, list))]
        if not level:
            return False
    return True


class LineSplitter:
    """Cuts bytes into (line, bytes cut off it); holds at most `MAX_LINE` bytes."""

    def __init__(self) -> None:
        self._held = bytearray()
        self._cut = 0

    def feed(self, data: bytes) -> Iterator[tuple[str, int]]:
        """Take bytes, give the lines they complete."""
        *ended, rest = data.split(b"\n")
        for piece in ended:
            self._keep(piece)
            yield self._take()
        self._keep(rest)

    def finish(self) -> Iterator[tuple[str, int]]:
        """Give the last line if it had no newline."""
        if self._held or self._cut:
            yield self._take()

    def _keep(self, piece: bytes) -> None:
        room = MAX_LINE - len(self._held)
        self._held += piece[:room]
        self._cut += max(len(piece) - room, 0)

    def _take(self) -> tuple[str, int]:
        line = self._held.decode("utf-8", "replace").rstrip("\r")
        cut, self._cut = self._cut, 0
        self._held.clear()
        return line, cut


async def read_lines(pipe: int, deliver: Callable[[str, int], None]) -> None:
    """Deliver each line read from a pipe until its end. Takes the file descriptor over."""
    splitter = LineSplitter()
    async with trio.lowlevel.FdStream(pipe) as stream:
        try:
            while data := await stream.receive_some(_READ_SIZE):
                for line, cut in splitter.feed(data):
                    deliver(line, cut)
        finally:
            for line, cut in splitter.finish():
                deliver(line, cut)
