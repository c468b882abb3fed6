"""Reads the output of one process: keeps its last lines, and emits an event for each line."""

from __future__ import annotations

import itertools
import logging
import math
import os
import re
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager

import attrs
import trio

from meshtrio.config import OutputConfig
from meshtrio.contract import DRAIN_CUT_CALL, DRAIN_DONE, IDLE, MAX_LINE_LENGTH
from meshtrio.supervisor import events
from meshtrio.supervisor.log_line import parse_line
from meshtrio.supervisor.process.output import output_lines, pipe_reader
from meshtrio.supervisor.process.saved_processes import CLOSED, SavedPipe, SavedProcess
from meshtrio.supervisor.process.spawn.plugin_process import PluginProcess

_log = logging.getLogger("meshtrio.mesh")

_MAX_STDERR_LINES = 20
_MAX_STDERR_TAIL_LENGTH = 32 * 1024
"""Total characters of the last lines of stderr, which all watchers of the service are sent."""
_MAX_CUT_CALLS = 10_000
_PIPE_TIMEOUT = 0.2
"""Seconds for which a pipe is read after the end of the process, if another one holds it open."""
_TIME_SLICE = 0.001
"""Seconds for which lines are handled before other tasks get a turn."""
_STREAMS = ("stdout", "stderr")
_REPORT_PREFIX = '{"meshtrio": '
_REPORTS = (DRAIN_DONE, DRAIN_CUT_CALL, IDLE)
_REPORT_PATTERN = re.compile(rb"\{\"meshtrio\": [^\n]*(?:\n|\Z)")
"""Matches a line that may be a report of the plugin: that it is idle, or on its drain. A report is
written in one piece, but perhaps in the middle of a line of another thread or process: only writes
of up to 4 KiB are atomic (pipe(7))."""


class OutputReader:
    """Reads what a process writes to stdout and stderr."""

    def __init__(
        self, config: OutputConfig, line_buffer: output_lines.LineBuffer, emit: Callable[..., None]
    ) -> None:
        self.config = config
        self.line_buffer = line_buffer
        """Where the last lines are kept."""
        self.emit = emit
        """Called as `emit(kind, **values)` for each line, and for lines that were dropped."""
        self.cut_calls: list[str] = []
        """Paths of the calls that the process reported as cut when it drained."""
        self.has_drain_report = False
        """Whether the process has reported all of them; plugins not made with meshtrio, and those
        that were killed, do not."""
        self.on_idle: Callable[[], None] | None = None
        """Called when the process reports that it has no calls; None if it is not to report it."""
        self.log_level = config.log_level
        """The level below which lines are not logged; may change while the process runs."""
        self.on_data: Callable[[str, bytes], None] | None = None
        """Called as `on_data(stream, data)` with all that is read, before it is split into lines.
        """
        self._stderr_lines: deque[str] = deque(maxlen=_MAX_STDERR_LINES)
        self._pipes: list[_OutputPipe] = []
        self._adopted: dict[str, SavedPipe] = {}
        """What was read of the pipes before an upgrade, by stream."""

    def adopt(self, saved: SavedProcess, stderr_lines: Iterable[str]) -> None:
        """Begin with what was read of a process before an upgrade."""
        self._adopted = {"stdout": saved.stdout, "stderr": saved.stderr}
        self._stderr_lines.extend(stderr_lines)

    @property
    def is_reading(self) -> bool:
        """Whether both pipes are read, or have ended."""
        return len({*self._adopted, *(pipe.stream for pipe in self._pipes)}) == len(_STREAMS)

    def save(self) -> tuple[SavedPipe, SavedPipe]:
        """Return what an upgrade hands over of stdout and stderr."""
        found = {**self._adopted, **{pipe.stream: pipe.save() for pipe in self._pipes}}
        return found["stdout"], found["stderr"]

    @property
    def stderr_lines(self) -> tuple[str, ...]:
        """The last lines of stderr as they were written."""
        return tuple(self._stderr_lines)

    @property
    def stderr_tail(self) -> tuple[str, ...]:
        """The last lines that the process wrote to stderr, with the message of those in JSON."""
        parsed = (
            parse_line(line, output_lines.parse_json_fields(line)) for line in self._stderr_lines
        )
        lines = [line for each in parsed for line in each.lines][-_MAX_STDERR_LINES:]
        lengths = itertools.accumulate(len(line) for line in reversed(lines))
        kept = sum(length <= _MAX_STDERR_TAIL_LENGTH for length in lengths)
        return tuple(lines[len(lines) - kept :])

    def read_remaining(self) -> None:
        """Read what is left in the pipes of a process that has ended.

        The task that reads them may not have had its turn yet, on a busy machine, and the exit of
        the process is about to be reported with its last line.
        """
        for pipe in self._pipes:
            pipe.read_remaining()

    @asynccontextmanager
    async def reading(self, process: PluginProcess) -> AsyncIterator[trio.Event]:
        """Read the process's output during the block, and then to its end.

        Yields an event that is set when both pipes have ended.

        Cancellation: The output is read to its end even so, for up to 0.2 s after the block.
        """
        all_read = trio.Event()
        pipes = {
            stream: pipe
            for stream, pipe in zip(_STREAMS, (process.stdout, process.stderr), strict=True)
            if pipe != CLOSED
        }
        if not pipes:
            all_read.set()

        async def read(stream: str, pipe: int) -> None:
            limiter = output_lines.RateLimiter(self.config)
            consumer = _OutputPipe(self, process.pid, stream, pipe, limiter)
            if (saved := self._adopted.pop(stream, None)) is not None:
                consumer.adopt(saved)
            self._pipes.append(consumer)
            os.set_blocking(pipe, False)  # For `read_remaining`.
            try:
                with scopes[stream]:
                    await pipe_reader.read_pipe(pipe, consumer, process.leader_exited)
            except Exception:
                _log.exception("pid %d: stopped reading its %s", process.pid, stream)
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
        """Handle a line that may be a report: that the plugin is idle, or what its drain has cut.

        There is one drain report, and no report after it. What exceeds its maximum length is a line
        like any other. Returns whether the line is part of the report, and so not for the log.
        """
        if self.has_drain_report:
            return False
        if line == IDLE and self.on_idle is not None:
            self.on_idle()
            return True
        if line == DRAIN_DONE:
            self.has_drain_report = True
            return True
        if not line.startswith(DRAIN_CUT_CALL) or len(self.cut_calls) >= _MAX_CUT_CALLS:
            return False
        fields = output_lines.parse_json_fields(line)
        if fields is not None:
            self.cut_calls.append(str(fields.get("path")))
        return fields is not None

    def record_stderr(self, data: bytes) -> None:
        """Keep the last of the lines in `data`, which was written to stderr."""
        for piece in data.rsplit(b"\n", _MAX_STDERR_LINES)[-_MAX_STDERR_LINES:]:
            line = output_lines.decode_line(piece)
            before, mark, _ = line.partition(_REPORT_PREFIX)
            is_report = mark and line[len(before) :].startswith(_REPORTS)
            if not is_report:
                self._stderr_lines.append(line)
            elif before:
                self._stderr_lines.append(before)


@attrs.define(eq=False)
class _OutputPipe:
    """Handles the data of one pipe of a process: a `PipeConsumer`."""

    _reader: OutputReader
    _pid: int
    stream: str
    """Either "stdout" or "stderr"."""
    _descriptor: int | None
    """The pipe; None once it is about to be closed."""
    _rate_limiter: output_lines.RateLimiter
    _splitter: output_lines.LineSplitter = attrs.field(factory=output_lines.LineSplitter)
    is_flooding: bool = False
    """Whether lines of the data that was handled last were dropped."""
    _read_at: float = -math.inf
    """When the lines that are being handled were read. The rate limiter uses this time: a mesh that
    is slow at handling lines would otherwise never find that they come too fast."""
    _partial_stderr_line: bytes = b""
    """The beginning of a line of stderr whose end was not read yet."""

    def adopt(self, saved: SavedPipe) -> None:
        """Begin with what was read before an upgrade."""
        self._read_at = trio.current_time()
        self._splitter.adopt(saved.data, saved.truncated)
        self._rate_limiter.dropped = saved.dropped
        self._partial_stderr_line = saved.partial_stderr_line

    def save(self) -> SavedPipe:
        data, truncated = self._splitter.save()
        return SavedPipe(
            descriptor=CLOSED if self._descriptor is None else self._descriptor,
            data=data,
            truncated=truncated,
            dropped=self._rate_limiter.dropped,
            partial_stderr_line=self._partial_stderr_line,
        )

    def feed(self, data: bytes) -> None:
        self._read_at = trio.current_time()
        if self._reader.on_data is not None:
            self._reader.on_data(self.stream, data)
        self._splitter.feed(data)
        self.is_flooding = False
        if self.stream == "stderr":
            # Before the lines are handled, which may take longer than the wait for the process.
            lines, newline, rest = data.rpartition(b"\n")
            if newline:
                self._reader.record_stderr(self._partial_stderr_line + lines)
                self._partial_stderr_line = b""
            self._partial_stderr_line = (self._partial_stderr_line + rest)[:MAX_LINE_LENGTH]

    def read_remaining(self) -> None:
        if self._descriptor is not None:
            for data in pipe_reader.read_available(self._descriptor):
                self.feed(data)

    def handle(self) -> bool:
        started_at = time.perf_counter()
        while (line := self._splitter.next_line()) is not None:
            if not self._handle_line(*line):
                self.skip_lines()
                return False
            if time.perf_counter() - started_at > _TIME_SLICE:
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
        """Keep a line and emit an event for it; returns False if it exceeds the rate limit."""
        reader = self._reader
        at = line.find(_REPORT_PREFIX) if self.stream == "stderr" else -1
        if at >= 0 and reader.handle_report(line[at:]):
            if not at:
                return True
            line = line[:at]
        now = self._read_at
        kept = output_lines.OutputLine(now, self._pid, self.stream, line)
        reader.line_buffer.append(kept, reader.config.kept)
        if not self._rate_limiter.try_acquire(now):
            return False
        self._emit_dropped(now)
        reader.emit(
            events.LineWritten,
            pid=self._pid,
            stream=self.stream,
            line=line,
            truncated_bytes=cut,
            fields=None if cut else output_lines.parse_json_fields(line),
            log_level=reader.log_level,
        )
        return True

    def skip_lines(self) -> None:
        """Keep all other lines that were read, as one block that counts as dropped."""
        self.is_flooding = True
        data, count = self._splitter.next_block()
        if self.stream == "stderr":
            data, count = self._remove_reports(data, count)
        if count:
            block = output_lines.OutputBlock(
                trio.current_time(), self._pid, self.stream, data, count
            )
            self._reader.line_buffer.append(block, self._reader.config.kept)
            self._rate_limiter.dropped += count

    def _remove_reports(self, data: bytes, count: int) -> tuple[bytes, int]:
        """Remove reports from a block; returns the block and its number of lines."""

        def remove(found: re.Match[bytes]) -> bytes:
            nonlocal count
            if not self._reader.handle_report(output_lines.decode_line(found[0].rstrip(b"\n"))):
                return found[0]
            count -= 1
            return b""

        if self._reader.has_drain_report or _REPORT_PREFIX.encode() not in data:
            return data, count
        return _REPORT_PATTERN.sub(remove, data + b"\n")[:-1], count

    def _emit_dropped(self, now: float = math.inf) -> None:
        if count := self._rate_limiter.drain_dropped(now):
            values = {"pid": self._pid, "stream": self.stream, "count": count}
            self._reader.emit(events.LinesDropped, **values)
