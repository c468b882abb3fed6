"""A plugin's output as lines, in bounded memory: splitting, rate limit, last lines."""

from __future__ import annotations

import json
import math
from collections import deque
from collections.abc import Iterator, Mapping
from typing import Any

import attrs

from meshtrio.config import OutputConfig
from meshtrio.contract import MAX_LINE_LENGTH as MAX_LINE_LENGTH
from meshtrio.supervisor.process.saved_processes import from_monotonic, to_monotonic
from meshtrio.util.token_bucket import TokenBucket

_DROP_REPORT_INTERVAL = 1.0
_MAX_BUFFERED_LENGTH = 256 * 1024
"""Maximum number of characters of the last lines of an instance, whatever their number."""
_MAX_DEPTH = 500
"""Maximum nesting of a line of structured logging. Python 3.11 cannot parse 1,000 levels, 3.13 can
parse about 10,000."""


@attrs.frozen
class OutputLine:
    """One line of a plugin's output."""

    time: float
    """Time at which it was read, in seconds of the mesh's clock."""
    pid: int
    """The process that the line was read from."""
    stream: str
    """Either "stdout" or "stderr"."""
    text: str
    """The line, without its end."""


@attrs.frozen
class OutputBlock:
    """Lines that came too fast to be split."""

    time: float
    """Time at which they were read, in seconds of the mesh's clock."""
    pid: int
    stream: str
    """Either "stdout" or "stderr"."""
    data: bytes
    """The lines, without the last newline."""
    count: int
    """Number of lines."""

    def last_lines(self, max_lines: int) -> list[OutputLine]:
        """Return the last lines, at most `max_lines`."""
        if max_lines <= 0:
            return []
        pieces = self.data.rsplit(b"\n", max_lines)[-max_lines:]
        return [OutputLine(self.time, self.pid, self.stream, decode_line(each)) for each in pieces]


def decode_line(line: bytes | bytearray) -> str:
    """Decode a line, truncated to `MAX_LINE_LENGTH` bytes."""
    return line[:MAX_LINE_LENGTH].decode("utf-8", "replace").rstrip("\r")


class LineBuffer:
    """The last lines of an instance, across its process runs."""

    def __init__(self) -> None:
        self._items: deque[tuple[OutputLine | OutputBlock, int, int]] = deque()
        """Lines and blocks, each with its size and its number of lines."""
        self._size = self._count = self._max_lines = 0

    def adopt(self, saved: str, max_lines: int) -> None:
        """Add the lines that `save` has returned."""
        for time, pid, stream, text in json.loads(saved):
            self.append(OutputLine(from_monotonic(time), pid, stream, text), max_lines)

    def save(self) -> str:
        """Return the lines that are kept as JSON, for an upgrade."""
        lines = ((to_monotonic(x.time), x.pid, x.stream, x.text) for x in self.lines())
        return json.dumps(list(lines))

    def append(self, item: OutputLine | OutputBlock, max_lines: int) -> None:
        """Add a line or a block of lines, and keep at most `max_lines` lines."""
        self._max_lines = max_lines
        if isinstance(item, OutputBlock):
            size, count = len(item.data), item.count
        else:
            size, count = len(item.text), 1
        self._items.append((item, size, count))
        self._size += size
        self._count += count
        while self._items and (
            self._count - self._items[0][2] >= max_lines or self._size > _MAX_BUFFERED_LENGTH
        ):
            _, size, count = self._items.popleft()
            self._size -= size
            self._count -= count

    def lines(self) -> tuple[OutputLine, ...]:
        """Return the lines that are kept, oldest first."""
        found: deque[OutputLine] = deque()
        for each, _, _ in reversed(self._items):
            if isinstance(each, OutputBlock):
                found.extendleft(reversed(each.last_lines(self._max_lines - len(found))))
            else:
                found.appendleft(each)
        return tuple(found)[-self._max_lines :]


class RateLimiter:
    """Limits the lines of a plugin to its configured rate, and counts dropped ones."""

    def __init__(self, config: OutputConfig) -> None:
        self._bucket = TokenBucket(config.burst, config.lines_per_second)
        self.dropped = 0
        """Number of lines that were dropped and not reported yet."""
        self._last_report_at = -math.inf

    def try_acquire(self, now: float) -> bool:
        """Take a token for a line; return False, and count the line as dropped, if none is left."""
        admitted = self._bucket.try_acquire(now)
        self.dropped += not admitted
        return admitted

    def drain_dropped(self, now: float = math.inf) -> int:
        """Return the number of lines dropped since the last call that returned one.

        While lines are still being dropped it is reported once a second at most, 0 in between.
        """
        flooding = not self._bucket.has_tokens
        if not self.dropped or (flooding and now - self._last_report_at < _DROP_REPORT_INTERVAL):
            return 0
        dropped, self.dropped, self._last_report_at = self.dropped, 0, now
        return dropped


def parse_json_fields(line: str) -> Mapping[str, Any] | None:
    """Parse a line of structured logging; None for a line that is not a JSON object."""
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
    """Whether the value parsed from a line nests objects and lists deeper than `depth`."""
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
    """Splits bytes into lines; holds at most `MAX_LINE_LENGTH` bytes of an unfinished line."""

    def __init__(self) -> None:
        self._data = b""
        """Bytes that were fed last; those before `_offset` have been consumed."""
        self._offset = 0
        self._partial_line = bytearray()
        """The beginning of the unfinished line, before `_data`."""
        self._truncated = 0
        """Number of bytes of that line that were dropped."""

    def adopt(self, data: bytes, truncated: int) -> None:
        """Begin with what `save` has returned."""
        self._data, self._offset = data, 0
        if truncated:
            # The whole line that is unfinished, of which no more is kept.
            self._partial_line += data[:MAX_LINE_LENGTH]
            self._data, self._truncated = data[MAX_LINE_LENGTH:], truncated

    def save(self) -> tuple[bytes, int]:
        """Return what was not consumed, and the bytes that were dropped of its first line."""
        return bytes(self._partial_line) + self._data[self._offset :], self._truncated

    def feed(self, data: bytes) -> None:
        """Add bytes, which `next_line` and `next_block` return."""
        rest = self._data[self._offset :]
        self._data, self._offset = rest + data if rest else data, 0

    def next_line(self) -> tuple[str, int] | None:
        """Return the next complete line and its number of dropped bytes; None if there is none."""
        end = self._data.find(b"\n", self._offset)
        if end < 0:
            self._append_partial(self._data[self._offset :])
            self._data, self._offset = b"", 0
            return None
        piece = self._data[self._offset : end]
        self._offset = end + 1
        if not self._partial_line:
            # The usual case: the line is in one piece.
            return decode_line(piece), max(len(piece) - MAX_LINE_LENGTH, 0)
        self._append_partial(piece)
        return self._finish_partial()

    def next_block(self) -> tuple[bytes, int]:
        """Return all complete lines as one piece without the last newline, and their number.

        The cost per line is that of a memory scan. The count of dropped bytes of the first line, if
        it was unfinished before, is discarded.
        """
        end = self._data.rfind(b"\n", self._offset)
        if end < 0:
            return b"", 0
        block = bytes(self._partial_line) + self._data[self._offset : end]
        self._partial_line.clear()
        self._truncated, self._offset = 0, end + 1
        return block, block.count(b"\n") + 1

    def finish(self) -> Iterator[tuple[str, int]]:
        """Yield the remaining lines, including an unfinished one."""
        while (line := self.next_line()) is not None:
            yield line
        if self._partial_line or self._truncated:
            yield self._finish_partial()

    def _append_partial(self, piece: bytes) -> None:
        room = MAX_LINE_LENGTH - len(self._partial_line)
        self._partial_line += piece[:room]
        self._truncated += max(len(piece) - room, 0)

    def _finish_partial(self) -> tuple[str, int]:
        line, truncated = decode_line(self._partial_line), self._truncated
        self._partial_line.clear()
        self._truncated = 0
        return line, truncated
