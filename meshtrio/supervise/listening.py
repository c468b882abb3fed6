"""What is done with the lines of one process: kept, counted, and told as events."""

from __future__ import annotations

import itertools
import logging
import math
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial

import trio

from meshtrio.config import OutputConfig
from meshtrio.contract import DRAIN_CUT, DRAIN_DONE
from meshtrio.supervise import events
from meshtrio.supervise.processes.output import Line, Ring, Valve, fields_of, read_lines
from meshtrio.supervise.processes.process import Process
from meshtrio.supervise.said import said_in

_log = logging.getLogger("meshtrio.mesh")

_STDERR_KEPT = 20
_CUT_CALLS_KEPT = 10_000
_PIPE_HELD = 0.2
"""Seconds that a pipe is read for after the end, which only a process of another group can hold."""


class Listener:
    """Reads what a process writes; `emit(kind, **values)` tells of it."""

    def __init__(self, config: OutputConfig, ring: Ring, emit: Callable[..., None]) -> None:
        self.cut_calls: list[str] = []
        """Paths of the calls that it reports as cut when it drained."""
        self.reported_drain = False
        """It has reported all of them; foreign plugins, and those that were killed, do not."""
        self.log_level = config.log_level
        """It may change while the process lives."""
        self._config = config
        self._ring = ring
        self._emit = emit
        self._stderr: deque[str] = deque(maxlen=_STDERR_KEPT)

    @property
    def stderr_tail(self) -> tuple[str, ...]:
        """The last lines it wrote to stderr, those of JSON as people read them."""
        lines = (said_in(line, fields_of(line)).lines for line in self._stderr)
        return tuple(itertools.chain.from_iterable(lines))[-_STDERR_KEPT:]

    @asynccontextmanager
    async def listening(self, process: Process) -> AsyncIterator[trio.Event]:
        """Read the process's output during the block, whatever is cancelled, and to its end.

        Yields an event that is set when both pipes have ended.
        """
        ended = trio.Event()
        pipes = {"stdout": process.stdout, "stderr": process.stderr}

        async def read(stream: str, pipe: int) -> None:
            valve = Valve(self._config)
            try:
                with scopes[stream]:
                    await read_lines(pipe, partial(self._take, process.pid, stream, valve))
            except Exception:
                _log.exception("pid %d: its %s is read no further", process.pid, stream)
            self._tell_dropped(process.pid, stream, valve)
            del pipes[stream]
            if not pipes:
                ended.set()

        scopes = {stream: trio.CancelScope(shield=True) for stream in pipes}
        async with trio.open_nursery() as nursery:
            for stream, pipe in list(pipes.items()):
                nursery.start_soon(read, stream, pipe)
            try:
                yield ended
            finally:
                for scope in scopes.values():
                    scope.deadline = trio.current_time() + _PIPE_HELD

    def _take(self, pid: int, stream: str, valve: Valve, line: str, cut: int) -> None:
        if stream == "stderr":
            if self._is_report(line):
                return
            self._stderr.append(line)
        now = trio.current_time()
        self._ring.keep(Line(now, pid, stream, line), self._config.kept)
        if valve.admits(now):
            self._tell_dropped(pid, stream, valve, now)
            fields = None if cut else fields_of(line)
            self._emit(
                events.LineWritten,
                pid=pid,
                stream=stream,
                line=line,
                cut=cut,
                fields=fields,
                log_level=self.log_level,
            )

    def _tell_dropped(self, pid: int, stream: str, valve: Valve, now: float = math.inf) -> None:
        count = valve.take_dropped(now)
        if count:
            self._emit(events.LinesDropped, pid=pid, stream=stream, count=count)

    def _is_report(self, line: str) -> bool:
        """Take a line that is for the mesh, and not for its log: of the plugin's drain."""
        if line == DRAIN_DONE:
            self.reported_drain = True
            return True
        fields = fields_of(line) if line.startswith(DRAIN_CUT) else None
        if fields is None:
            return False
        if len(self.cut_calls) < _CUT_CALLS_KEPT:
            self.cut_calls.append(str(fields.get("path")))
        return True
