"""What a plugin writes to stdout and stderr: cut into lines, in bounded memory."""

from __future__ import annotations

import json
import math
from collections import deque
from collections.abc import Iterator, Mapping
from typing import Any

import attrs

from meshtrio.config import OutputConfig
from meshtrio.contract import LONGEST_LINE
from meshtrio.wire.budget import Budget

MAX_LINE = LONGEST_LINE

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


@attrs.frozen
class Block:
    """Lines that came too fast to be taken apart: `data` has `count` of them, without the last
    newline."""

    at: float
    pid: int
    stream: str
    data: bytes
    count: int

    def last(self, most: int) -> list[Line]:
        """Return the last `most` lines."""
        if most <= 0:
            return []
        pieces = self.data.rsplit(b"\n", most)[-most:]
        return [Line(self.at, self.pid, self.stream, text_of(piece)) for piece in pieces]


def text_of(line: bytes | bytearray) -> str:
    """The text of a line, cut to its longest."""
    return line[:MAX_LINE].decode("utf-8", "replace").rstrip("\r")


class Ring:
    """The last lines of an instance, over all its lives."""

    def __init__(self) -> None:
        self._kept: deque[Line | Block] = deque()
        self._size = self._count = self._most = 0

    def keep(self, found: Line | Block, most: int) -> None:
        """Keep a line, or a block of them, and `most` lines in all."""
        self._most = most
        self._kept.append(found)
        self._size += _size_of(found)
        self._count += _count_of(found)
        while self._kept and (
            self._count - _count_of(self._kept[0]) >= most or self._size > _MOST_KEPT
        ):
            oldest = self._kept.popleft()
            self._size -= _size_of(oldest)
            self._count -= _count_of(oldest)

    def lines(self) -> tuple[Line, ...]:
        found: deque[Line] = deque()
        for each in reversed(self._kept):
            lines = each.last(self._most - len(found)) if isinstance(each, Block) else [each]
            found.extendleft(reversed(lines))
        return tuple(found)[-self._most :]


def _size_of(found: Line | Block) -> int:
    return len(found.data if isinstance(found, Block) else found.text)


def _count_of(found: Line | Block) -> int:
    return found.count if isinstance(found, Block) else 1


class Valve:
    """Lets a plugin's lines through as fast as its config allows, and counts what it drops."""

    def __init__(self, config: OutputConfig) -> None:
        self._budget = Budget(config.burst, config.lines_per_second)
        self._dropped = 0
        self._told_at = -math.inf

    def admits(self, now: float) -> bool:
        """Take a line from the budget, if there is one left; it is dropped otherwise."""
        admitted = self._budget.take(now)
        self._dropped += not admitted
        return admitted

    def drop(self, count: int) -> None:
        """Count lines that were not let through."""
        self._dropped += count

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
    """Cuts bytes into lines, one at a time; of an unfinished line it holds `MAX_LINE` bytes."""

    def __init__(self) -> None:
        self._data = b""
        """What was read and not taken yet; what is before `_at` has been."""
        self._at = 0
        self._held = bytearray()
        """The beginning of a line that has not ended yet."""
        self._cut = 0
        """Bytes of that line which are not held."""

    def feed(self, data: bytes) -> None:
        """Take bytes, to be given by `take` and `take_block`."""
        rest = self._data[self._at :]
        self._data, self._at = rest + data if rest else data, 0

    def take(self) -> tuple[str, int] | None:
        """Give the next line that has ended and the bytes cut off it, None if there is none."""
        end = self._data.find(b"\n", self._at)
        if end < 0:
            self._hold(self._data[self._at :])
            self._data, self._at = b"", 0
            return None
        piece = self._data[self._at : end]
        self._at = end + 1
        if not self._held:
            # As nearly always: the line is in one piece.
            return text_of(piece), max(len(piece) - MAX_LINE, 0)
        self._hold(piece)
        return self._finish_held()

    def take_block(self) -> tuple[bytes, int]:
        """Give all lines that have ended, as one piece without the last newline, and their number.

        Costs next to nothing for each line. Of an unfinished line before them the cut is forgotten.
        """
        end = self._data.rfind(b"\n", self._at)
        if end < 0:
            return b"", 0
        block = bytes(self._held) + self._data[self._at : end]
        self._held.clear()
        self._cut, self._at = 0, end + 1
        return block, block.count(b"\n") + 1

    def finish(self) -> Iterator[tuple[str, int]]:
        """Give the lines that are left, the last one also if it has no newline."""
        while (line := self.take()) is not None:
            yield line
        if self._held or self._cut:
            yield self._finish_held()

    def _hold(self, piece: bytes) -> None:
        room = MAX_LINE - len(self._held)
        self._held += piece[:room]
        self._cut += max(len(piece) - room, 0)

    def _finish_held(self) -> tuple[str, int]:
        line, cut = text_of(self._held), self._cut
        self._held.clear()
        self._cut = 0
        return line, cut
