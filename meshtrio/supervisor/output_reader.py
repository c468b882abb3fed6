"""What is done with the lines of one process: kept, counted, and told as events."""

from __future__ import annotations

import itertools
import logging
import math
import os
import re
import time
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import trio

from meshtrio.config import OutputConfig
from meshtrio.contract import DRAIN_CUT_CALL, DRAIN_DONE, MAX_LINE_LENGTH
from meshtrio.supervisor import events
from meshtrio.supervisor.log_line import parse_line
from meshtrio.supervisor.process.output.output_lines import (
    LineBuffer,
    LineSplitter,
    OutputBlock,
    OutputLine,
    RateLimiter,
    decode_line,
    parse_json_fields,
)
from meshtrio.supervisor.process.output.pipe_reader import read_available, read_pipe
from meshtrio.supervisor.process.spawn.plugin_process import PluginProcess

_log = logging.getLogger("meshtrio.mesh")

_MAX_STDERR_LINES = 20
_MAX_STDERR_TAIL_LENGTH = 32 * 1024
"""Characters of the last lines of stderr in all, which every watcher of the service is sent."""
_MAX_CUT_CALLS = 10_000
_PIPE_TIMEOUT = 0.2
"""Seconds that a pipe is read for after the end, which only a process of another group can hold."""
_TIME_SLICE = 0.001
"""Seconds for which lines are handled before other tasks run."""
_REPORT_PREFIX = '{"meshtrio": '
_REPORT_PATTERN = re.compile(rb"\{\"meshtrio\": [^\n]*(?:\n|\Z)")
"""What may be a report of the plugin's drain. It is written in one piece, but perhaps in the middle
of a line of another thread or process: only writes of up to 4 KiB are in one piece (pipe(7))."""


class OutputReader:
    """Reads what a process writes; `emit(kind, **values)` tells of it."""

    def __init__(
        self, config: OutputConfig, line_buffer: LineBuffer, emit: Callable[..., None]
    ) -> None:
        self.cut_calls: list[str] = []
        """Paths of the calls that it reports as cut when it drained."""
        self.has_drain_report = False
        """It has reported all of them; foreign plugins, and those that were killed, do not."""
        self.log_level = config.log_level
        """It may change while the process lives."""
        self.config = config
        self.line_buffer = line_buffer
        self.emit = emit
        self._stderr_lines: deque[str] = deque(maxlen=_MAX_STDERR_LINES)
        self._pipes: list[_OutputPipe] = []

    @property
    def stderr_tail(self) -> tuple[str, ...]:
        """The last lines it wrote to stderr, those of JSON as people read them."""
        lines = (parse_line(line, parse_json_fields(line)).lines for line in self._stderr_lines)
        return _last_lines(
            list(itertools.chain.from_iterable(lines))[-_MAX_STDERR_LINES:], _MAX_STDERR_TAIL_LENGTH
        )

    def read_remaining(self) -> None:
        """Read what is left in the pipes of a process that has ended.

        The reader may not have had its turn yet, on a busy machine, and how the process ended is
        about to be told with its last line.
        """
        for pipe in self._pipes:
            pipe.read_remaining()

    @asynccontextmanager
    async def reading(self, process: PluginProcess) -> AsyncIterator[trio.Event]:
        """Read the process's output during the block, whatever is cancelled, and to its end.

        Yields an event that is set when both pipes have ended.
        """
        all_read = trio.Event()
        pipes = {"stdout": process.stdout, "stderr": process.stderr}

        async def read(stream: str, pipe: int) -> None:
            consumer = _OutputPipe(self, process.pid, stream, pipe)
            self._pipes.append(consumer)
            os.set_blocking(pipe, False)  # for `read_remaining`
            try:
                with scopes[stream]:
                    await read_pipe(pipe, consumer, process.leader_exited)
            except Exception:
                _log.exception("pid %d: its %s is read no further", process.pid, stream)
            del pipes[stream]
            if not pipes:
                all_read.set()

        scopes = {stream: trio.CancelScope(shield=True) for stream in pipes}
        async with trio.open_nursery() as nursery:
            for stream, pipe in list(pipes.items()):
                nursery.start_soon(read, stream, pipe)
            try:
                yield all_read
            finally:
                process.leader_exited.set()
                for scope in scopes.values():
                    scope.deadline = trio.current_time() + _PIPE_TIMEOUT

    def handle_report(self, line: str) -> bool:
        """Take a line that is for the mesh, and not for its log: of the plugin's drain.

        There is one such report. What comes after it, or is more than it can have, is a line like
        any other, which may come too fast.
        """
        if self.has_drain_report:
            return False
        if line == DRAIN_DONE:
            self.has_drain_report = True
            return True
        if not line.startswith(DRAIN_CUT_CALL) or len(self.cut_calls) >= _MAX_CUT_CALLS:
            return False
        fields = parse_json_fields(line)
        if fields is not None:
            self.cut_calls.append(str(fields.get("path")))
        return fields is not None

    def record_stderr(self, data: bytes) -> None:
        """Keep the last lines of some that were written to stderr."""
        for piece in data.rsplit(b"\n", _MAX_STDERR_LINES)[-_MAX_STDERR_LINES:]:
            line = decode_line(piece)
            before, mark, _ = line.partition(_REPORT_PREFIX)
            is_report = mark and line[len(before) :].startswith((DRAIN_DONE, DRAIN_CUT_CALL))
            if not is_report:
                self._stderr_lines.append(line)
            elif before:
                self._stderr_lines.append(before)


class _OutputPipe:
    """Handles what one pipe of a process gives: a `PipeConsumer`."""

    def __init__(self, reader: OutputReader, pid: int, stream: str, descriptor: int) -> None:
        self.is_flooding = False
        """Lines of what was handled last were dropped."""
        self._reader = reader
        self._descriptor: int | None = descriptor
        """None when it is about to be closed."""
        self._pid = pid
        self._stream = stream
        self._rate_limiter = RateLimiter(reader.config)
        self._read_at = -math.inf
        """When the lines were read that are handled. Whether they came too fast goes by that time:
        a mesh that handles them slowly would otherwise never find that they did."""
        self._splitter = LineSplitter()
        self._is_stderr = stream == "stderr"
        self._partial_stderr_line = b""
        """Of stderr: the beginning of a line whose end was not read yet."""

    def feed(self, data: bytes) -> None:
        self._read_at = trio.current_time()
        self._splitter.feed(data)
        self.is_flooding = False
        if self._is_stderr:
            # Before its lines are handled, which may take longer than the process is waited for.
            lines, newline, rest = data.rpartition(b"\n")
            if newline:
                self._reader.record_stderr(self._partial_stderr_line + lines)
                self._partial_stderr_line = b""
            self._partial_stderr_line = (self._partial_stderr_line + rest)[:MAX_LINE_LENGTH]

    def read_remaining(self) -> None:
        if self._descriptor is not None:
            for data in read_available(self._descriptor):
                self.feed(data)

    def handle(self) -> bool:
        began = time.perf_counter()
        while (line := self._splitter.next_line()) is not None:
            if not self._handle_line(*line):
                self._handle_block()
                return False
            if time.perf_counter() - began > _TIME_SLICE:
                return True
        return False

    def finish(self) -> None:
        self._descriptor = None
        while self.handle():
            pass
        for line, cut in self._splitter.finish():
            self._handle_line(line, cut)
        if self._partial_stderr_line:
            self._reader.record_stderr(self._partial_stderr_line)
            self._partial_stderr_line = b""
        self._emit_dropped()

    def _handle_line(self, line: str, cut: int) -> bool:
        """Keep a line, and emit an event for it; False if it came too fast for that."""
        listener = self._reader
        if (
            self._is_stderr
            and (at := line.find(_REPORT_PREFIX)) >= 0
            and listener.handle_report(line[at:])
        ):
            if not at:
                return True
            line = line[:at]
        now = self._read_at
        listener.line_buffer.append(
            OutputLine(now, self._pid, self._stream, line), listener.config.kept
        )
        if not self._rate_limiter.try_acquire(now):
            return False
        self._emit_dropped(now)
        listener.emit(
            events.LineWritten,
            pid=self._pid,
            stream=self._stream,
            line=line,
            truncated_bytes=cut,
            fields=None if cut else parse_json_fields(line),
            log_level=listener.log_level,
        )
        return True

    def _handle_block(self) -> None:
        """Keep all other lines that were read, without taking them apart: they came too fast."""
        self.is_flooding = True
        data, count = self._splitter.next_block()
        if not count:
            return
        if self._is_stderr:
            data, count = self._remove_reports(data, count)
        if count:
            block = OutputBlock(trio.current_time(), self._pid, self._stream, data, count)
            self._reader.line_buffer.append(block, self._reader.config.kept)
            self._rate_limiter.add_dropped(count)

    def _remove_reports(self, data: bytes, count: int) -> tuple[bytes, int]:
        """Take the lines out of a block that are for the mesh; gives it and its number of lines."""

        def take(found: re.Match[bytes]) -> bytes:
            nonlocal count
            if not self._reader.handle_report(decode_line(found[0].rstrip(b"\n"))):
                return found[0]
            count -= 1
            return b""

        if self._reader.has_drain_report or _REPORT_PREFIX.encode() not in data:
            return data, count
        return _REPORT_PATTERN.sub(take, data + b"\n")[:-1], count

    def _emit_dropped(self, now: float = math.inf) -> None:
        count = self._rate_limiter.drain_dropped(now)
        if count:
            values = {"pid": self._pid, "stream": self._stream, "count": count}
            self._reader.emit(events.LinesDropped, **values)


def _last_lines(lines: list[str], max_length: int) -> tuple[str, ...]:
    """The last of some lines, with at most so many characters in all."""
    kept: deque[str] = deque()
    for line in reversed(lines):
        max_length -= len(line)
        if max_length < 0:
            break
        kept.appendleft(line)
    return tuple(kept)
