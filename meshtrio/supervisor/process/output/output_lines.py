"""What a plugin writes to stdout and stderr: cut into lines, in bounded memory."""

from __future__ import annotations

import json
import math
from collections import deque
from collections.abc import Iterator, Mapping
from typing import Any

import attrs

from meshtrio.config import OutputConfig
from meshtrio.contract import MAX_LINE_LENGTH
from meshtrio.util.token_bucket import TokenBucket

MAX_LINE_LENGTH = MAX_LINE_LENGTH

_DROP_REPORT_INTERVAL = 1.0
_MAX_BUFFERED_LENGTH = 256 * 1024
"""Characters of an instance's last lines, however many lines that is."""
_MAX_DEPTH = 500
"""Nesting of a line of structured logging. Releases of Python differ in what they can parse: 3.11
fails at 1,000 levels or fewer, 3.13 at about 10,000."""


@attrs.frozen
class OutputLine:
    """One line of a plugin's output, at `at` (seconds, the mesh's clock)."""

    time: float
    pid: int
    stream: str
    text: str


@attrs.frozen
class OutputBlock:
    """Lines that came too fast to be taken apart: `data` has `count` of them, without the last
    newline."""

    time: float
    pid: int
    stream: str
    data: bytes
    count: int

    def last_lines(self, max_lines: int) -> list[OutputLine]:
        """Return the last `most` lines."""
        if max_lines <= 0:
            return []
        pieces = self.data.rsplit(b"\n", max_lines)[-max_lines:]
        return [
            OutputLine(self.time, self.pid, self.stream, decode_line(piece)) for piece in pieces
        ]


def decode_line(line: bytes | bytearray) -> str:
    """The text of a line, cut to its longest."""
    return line[:MAX_LINE_LENGTH].decode("utf-8", "replace").rstrip("\r")


class LineBuffer:
    """The last lines of an instance, over all its lives."""

    def __init__(self) -> None:
        self._items: deque[OutputLine | OutputBlock] = deque()
        self._size = self._count = self._max_lines = 0

    def append(self, item: OutputLine | OutputBlock, max_lines: int) -> None:
        """Keep a line, or a block of them, and `most` lines in all."""
        self._max_lines = max_lines
        self._items.append(item)
        self._size += _item_size(item)
        self._count += _item_line_count(item)
        while self._items and (
            self._count - _item_line_count(self._items[0]) >= max_lines
            or self._size > _MAX_BUFFERED_LENGTH
        ):
            oldest = self._items.popleft()
            self._size -= _item_size(oldest)
            self._count -= _item_line_count(oldest)

    def lines(self) -> tuple[OutputLine, ...]:
        found: deque[OutputLine] = deque()
        for each in reversed(self._items):
            lines = (
                each.last_lines(self._max_lines - len(found))
                if isinstance(each, OutputBlock)
                else [each]
            )
            found.extendleft(reversed(lines))
        return tuple(found)[-self._max_lines :]


def _item_size(item: OutputLine | OutputBlock) -> int:
    return len(item.data if isinstance(item, OutputBlock) else item.text)


def _item_line_count(item: OutputLine | OutputBlock) -> int:
    return item.count if isinstance(item, OutputBlock) else 1


class RateLimiter:
    """Lets a plugin's lines through as fast as its config allows, and counts what it drops."""

    def __init__(self, config: OutputConfig) -> None:
        self._bucket = TokenBucket(config.burst, config.lines_per_second)
        self._dropped = 0
        self._last_report_at = -math.inf

    def try_acquire(self, now: float) -> bool:
        """Take a line from the budget, if there is one left; it is dropped otherwise."""
        admitted = self._bucket.try_acquire(now)
        self._dropped += not admitted
        return admitted

    def add_dropped(self, count: int) -> None:
        """Count lines that were not let through."""
        self._dropped += count

    def drain_dropped(self, now: float = math.inf) -> int:
        """How many were dropped since the last time. While it floods, 0 if that was within the last
        second: of a flood there shall be no flood of notes."""
        flooding = not self._bucket.has_tokens
        if not self._dropped or (flooding and now - self._last_report_at < _DROP_REPORT_INTERVAL):
            return 0
        dropped, self._dropped, self._last_report_at = self._dropped, 0, now
        return dropped


def parse_json_fields(line: str) -> Mapping[str, Any] | None:
    """What a line of structured logging says, None for one that is not a JSON object."""
    if not (line.startswith("{") and line.endswith("}")):
        return None
    try:
        fields = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(fields, dict) or _exceeds_depth(line, fields, _MAX_DEPTH):
        return None
    return fields


def _exceeds_depth(line: str, value: object, depth: int) -> bool:
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
    """Cuts bytes into lines, one at a time; of an unfinished line it holds `MAX_LINE_LENGTH`
    bytes."""

    def __init__(self) -> None:
        self._data = b""
        """What was read and not taken yet; what is before `_at` has been."""
        self._offset = 0
        self._partial_line = bytearray()
        """The beginning of a line that has not ended yet."""
        self._truncated = 0
        """Bytes of that line which are not held."""

    def feed(self, data: bytes) -> None:
        """Take bytes, to be given by `take` and `next_block`."""
        rest = self._data[self._offset :]
        self._data, self._offset = rest + data if rest else data, 0

    def next_line(self) -> tuple[str, int] | None:
        """Give the next line that has ended and the bytes cut off it, None if there is none."""
        end = self._data.find(b"\n", self._offset)
        if end < 0:
            self._append_partial(self._data[self._offset :])
            self._data, self._offset = b"", 0
            return None
        piece = self._data[self._offset : end]
        self._offset = end + 1
        if not self._partial_line:
            # As nearly always: the line is in one piece.
            return decode_line(piece), max(len(piece) - MAX_LINE_LENGTH, 0)
        self._append_partial(piece)
        return self._finish_partial()

    def next_block(self) -> tuple[bytes, int]:
        """Give all lines that have ended, as one piece without the last newline, and their number.

        Costs next to nothing for each line. Of an unfinished line before them the cut is forgotten.
        """
        end = self._data.rfind(b"\n", self._offset)
        if end < 0:
            return b"", 0
        block = bytes(self._partial_line) + self._data[self._offset : end]
        self._partial_line.clear()
        self._truncated, self._offset = 0, end + 1
        return block, block.count(b"\n") + 1

    def finish(self) -> Iterator[tuple[str, int]]:
        """Give the lines that are left, the last one also if it has no newline."""
        while (line := self.next_line()) is not None:
            yield line
        if self._partial_line or self._truncated:
            yield self._finish_partial()

    def _append_partial(self, piece: bytes) -> None:
        room = MAX_LINE_LENGTH - len(self._partial_line)
        self._partial_line += piece[:room]
        self._truncated += max(len(piece) - room, 0)

    def _finish_partial(self) -> tuple[str, int]:
        line, cut = decode_line(self._partial_line), self._truncated
        self._partial_line.clear()
        self._truncated = 0
        return line, cut
