"""The journals of one mesh: what happened to its plugins, and what they write."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import contextmanager

import attrs
import trio

from meshtrio.services.broadcast_log import BroadcastLog, ReaderThrottle
from meshtrio.supervisor import events
from meshtrio.supervisor.process.output.output_lines import OutputLine

_MAX_EVENTS = 1000
_MAX_LINES = 10_000
_MAX_LINE_CHARACTERS = 1024 * 1024


@attrs.frozen
class LoggedEvent:
    """An event, and when it was, in seconds since the epoch."""

    time: float
    event: events.LifecycleEvent


@attrs.frozen
class LoggedLine:
    """A line of an instance; `dropped` lines before it were more than its config lets through."""

    plugin: str
    instance: int
    line: OutputLine
    dropped: int = 0


class EventLog:
    """A subscriber to events. Lines are kept here only for who follows them."""

    def __init__(self) -> None:
        self._events: BroadcastLog[LoggedEvent] = BroadcastLog(_MAX_EVENTS)
        self._lines: BroadcastLog[LoggedLine] = BroadcastLog(
            _MAX_LINES, _MAX_LINE_CHARACTERS, lambda writing: len(writing.line.text)
        )
        self._event_throttle, self._line_throttle = ReaderThrottle(), ReaderThrottle()

    def on_event(self, event: events.LifecycleEvent) -> None:
        match event:
            case events.LineWritten(pid=pid, stream=stream, line=text):
                self._append_line(event, OutputLine(trio.current_time(), pid, stream, text))
            case events.LinesDropped(pid=pid, stream=stream, count=count):
                self._append_line(event, OutputLine(trio.current_time(), pid, stream, ""), count)
            case _:
                self._events.append(LoggedEvent(time.time(), event))

    def _append_line(
        self, event: events.LifecycleEvent, line: OutputLine, dropped: int = 0
    ) -> None:
        if self._line_throttle.readers:
            self._lines.append(LoggedLine(event.plugin, event.instance, line, dropped))

    async def read_events(
        self, is_wanted: Callable[[str], bool], last: int, *, follow: bool
    ) -> AsyncGenerator[tuple[int, LoggedEvent, int], None]:
        """Give the number of each, and how many before it could not be told.

        Begins with the `last` ones that are kept. Ends with them unless it is to `follow`.
        """
        journal = self._events
        past, _ = journal.read_after(0)
        found = [(number, each) for number, each in past if is_wanted(each.event.plugin)]
        position, missed = journal.last_number, 0
        for number, happening in found[-last:] if last else ():
            yield number, happening, 0
        with self._event_throttle:
            while follow:
                await journal.wait_after(position)
                found, more = journal.read_after(position)
                position, missed = journal.last_number, missed + more
                for number, happening in found:
                    if is_wanted(happening.event.plugin):
                        yield number, happening, missed
                        missed = 0
                await self._event_throttle.wait()

    @contextmanager
    def capture_lines(self) -> Iterator[int]:
        """Have lines kept during the block; gives where `writings` is to begin."""
        with self._line_throttle:
            yield self._lines.last_number

    async def read_lines(
        self, is_wanted: Callable[[str], bool], position: int
    ) -> AsyncGenerator[tuple[LoggedLine, int], None]:
        """Give what is written from there on, and how many lines before it could not be told."""
        journal, missed = self._lines, 0
        while True:
            await journal.wait_after(position)
            found, more = journal.read_after(position)
            position, missed = journal.last_number, missed + more
            for _, writing in found:
                if is_wanted(writing.plugin):
                    yield writing, missed
                    missed = 0
            await self._line_throttle.wait()
