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
from meshtrio.contract import DRAIN_CUT, DRAIN_DONE, LONGEST_LINE
from meshtrio.supervise import events
from meshtrio.supervise.processes.output import (
    Block,
    Line,
    LineSplitter,
    Ring,
    Valve,
    fields_of,
    text_of,
)
from meshtrio.supervise.processes.output_reader import left_in, read_output
from meshtrio.supervise.processes.process import Process
from meshtrio.supervise.said import said_in

_log = logging.getLogger("meshtrio.mesh")

_STDERR_KEPT = 20
_MAX_TAIL = 32 * 1024
"""Characters of the last lines of stderr in all, which every watcher of the service is sent."""
_CUT_CALLS_KEPT = 10_000
_PIPE_HELD = 0.2
"""Seconds that a pipe is read for after the end, which only a process of another group can hold."""
_SLICE = 0.001
"""Seconds for which lines are handled before other tasks run."""
_MARK = '{"meshtrio": '
_REPORT = re.compile(rb"\{\"meshtrio\": [^\n]*(?:\n|\Z)")
"""What may be a report of the plugin's drain. It is written in one piece, but perhaps in the middle
of a line of another thread or process: only writes of up to 4 KiB are in one piece (pipe(7))."""


class Listener:
    """Reads what a process writes; `emit(kind, **values)` tells of it."""

    def __init__(self, config: OutputConfig, ring: Ring, emit: Callable[..., None]) -> None:
        self.cut_calls: list[str] = []
        """Paths of the calls that it reports as cut when it drained."""
        self.reported_drain = False
        """It has reported all of them; foreign plugins, and those that were killed, do not."""
        self.log_level = config.log_level
        """It may change while the process lives."""
        self.config = config
        self.ring = ring
        self.emit = emit
        self._stderr: deque[str] = deque(maxlen=_STDERR_KEPT)
        self._pipes: list[_Pipe] = []

    @property
    def stderr_tail(self) -> tuple[str, ...]:
        """The last lines it wrote to stderr, those of JSON as people read them."""
        lines = (said_in(line, fields_of(line)).lines for line in self._stderr)
        return _within(list(itertools.chain.from_iterable(lines))[-_STDERR_KEPT:], _MAX_TAIL)

    def catch_up(self) -> None:
        """Read what is left in the pipes of a process that has ended.

        The reader may not have had its turn yet, on a busy machine, and how the process ended is
        about to be told with its last line.
        """
        for pipe in self._pipes:
            pipe.catch_up()

    @asynccontextmanager
    async def listening(self, process: Process) -> AsyncIterator[trio.Event]:
        """Read the process's output during the block, whatever is cancelled, and to its end.

        Yields an event that is set when both pipes have ended.
        """
        all_read = trio.Event()
        pipes = {"stdout": process.stdout, "stderr": process.stderr}

        async def read(stream: str, pipe: int) -> None:
            consumer = _Pipe(self, process.pid, stream, pipe)
            self._pipes.append(consumer)
            os.set_blocking(pipe, False)  # for `catch_up`
            try:
                with scopes[stream]:
                    await read_output(pipe, consumer, process.leader_ended)
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
                process.leader_ended.set()
                for scope in scopes.values():
                    scope.deadline = trio.current_time() + _PIPE_HELD

    def take_report(self, line: str) -> bool:
        """Take a line that is for the mesh, and not for its log: of the plugin's drain.

        There is one such report. What comes after it, or is more than it can have, is a line like
        any other, which may come too fast.
        """
        if self.reported_drain:
            return False
        if line == DRAIN_DONE:
            self.reported_drain = True
            return True
        if not line.startswith(DRAIN_CUT) or len(self.cut_calls) >= _CUT_CALLS_KEPT:
            return False
        fields = fields_of(line)
        if fields is not None:
            self.cut_calls.append(str(fields.get("path")))
        return fields is not None

    def note_errors(self, data: bytes) -> None:
        """Keep the last lines of some that were written to stderr."""
        for piece in data.rsplit(b"\n", _STDERR_KEPT)[-_STDERR_KEPT:]:
            line = text_of(piece)
            before, mark, _ = line.partition(_MARK)
            is_report = mark and line[len(before) :].startswith((DRAIN_DONE, DRAIN_CUT))
            if not is_report:
                self._stderr.append(line)
            elif before:
                self._stderr.append(before)


class _Pipe:
    """Handles what one pipe of a process gives: a `Consumer`."""

    def __init__(self, listener: Listener, pid: int, stream: str, descriptor: int) -> None:
        self.floods = False
        """Lines of what was handled last were dropped."""
        self._listener = listener
        self._descriptor: int | None = descriptor
        """None when it is about to be closed."""
        self._pid = pid
        self._stream = stream
        self._valve = Valve(listener.config)
        self._read_at = -math.inf
        """When the lines were read that are handled. Whether they came too fast goes by that time:
        a mesh that handles them slowly would otherwise never find that they did."""
        self._splitter = LineSplitter()
        self._is_stderr = stream == "stderr"
        self._unfinished = b""
        """Of stderr: the beginning of a line whose end was not read yet."""

    def feed(self, data: bytes) -> None:
        self._read_at = trio.current_time()
        self._splitter.feed(data)
        self.floods = False
        if self._is_stderr:
            # Before its lines are handled, which may take longer than the process is waited for.
            lines, newline, rest = data.rpartition(b"\n")
            if newline:
                self._listener.note_errors(self._unfinished + lines)
                self._unfinished = b""
            self._unfinished = (self._unfinished + rest)[:LONGEST_LINE]

    def catch_up(self) -> None:
        if self._descriptor is not None:
            for data in left_in(self._descriptor):
                self.feed(data)

    def handle(self) -> bool:
        began = time.perf_counter()
        while (line := self._splitter.take()) is not None:
            if not self._take(*line):
                self.skip_lines()
                return False
            if time.perf_counter() - began > _SLICE:
                return True
        return False

    def finish(self) -> None:
        self._descriptor = None
        while self.handle():
            pass
        for line, cut in self._splitter.finish():
            self._take(line, cut)
        if self._unfinished:
            self._listener.note_errors(self._unfinished)
            self._unfinished = b""
        self._emit_dropped()

    def _take(self, line: str, cut: int) -> bool:
        """Keep a line, and emit an event for it; False if it came too fast for that."""
        listener = self._listener
        if self._is_stderr and (at := line.find(_MARK)) >= 0 and listener.take_report(line[at:]):
            if not at:
                return True
            line = line[:at]
        now = self._read_at
        listener.ring.keep(Line(now, self._pid, self._stream, line), listener.config.kept)
        if not self._valve.admits(now):
            return False
        self._emit_dropped(now)
        listener.emit(
            events.LineWritten,
            pid=self._pid,
            stream=self._stream,
            line=line,
            cut=cut,
            fields=None if cut else fields_of(line),
            log_level=listener.log_level,
        )
        return True

    def skip_lines(self) -> None:
        """Keep all other lines that were read, as one block that counts as dropped."""
        self.floods = True
        data, count = self._splitter.take_block()
        if not count:
            return
        if self._is_stderr:
            data, count = self._without_reports(data, count)
        if count:
            block = Block(trio.current_time(), self._pid, self._stream, data, count)
            self._listener.ring.keep(block, self._listener.config.kept)
            self._valve.drop(count)

    def _without_reports(self, data: bytes, count: int) -> tuple[bytes, int]:
        """Take the lines out of a block that are for the mesh; gives it and its number of lines."""

        def take(found: re.Match[bytes]) -> bytes:
            nonlocal count
            if not self._listener.take_report(text_of(found[0].rstrip(b"\n"))):
                return found[0]
            count -= 1
            return b""

        if self._listener.reported_drain or _MARK.encode() not in data:
            return data, count
        return _REPORT.sub(take, data + b"\n")[:-1], count

    def _emit_dropped(self, now: float = math.inf) -> None:
        count = self._valve.take_dropped(now)
        if count:
            values = {"pid": self._pid, "stream": self._stream, "count": count}
            self._listener.emit(events.LinesDropped, **values)


def _within(lines: list[str], most: int) -> tuple[str, ...]:
    """The last of some lines, with at most so many characters in all."""
    kept: deque[str] = deque()
    for line in reversed(lines):
        most -= len(line)
        if most < 0:
            break
        kept.appendleft(line)
    return tuple(kept)
