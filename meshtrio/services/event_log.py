"""The last lifecycle events of a mesh, and the output lines of its plugins for readers."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import aclosing, contextmanager

import attrs
import trio

from meshtrio.services.broadcast_log import BroadcastLog, ReaderThrottle
from meshtrio.supervisor import events
from meshtrio.supervisor.process.output.output_lines import OutputLine

_MAX_EVENTS = 1000
"""Maximum number of events in the log."""
_MAX_LINES = 10_000
_MAX_LINE_CHARACTERS = 1024 * 1024
"""Maximum total length of the lines in the log."""


@attrs.frozen
class LoggedEvent:
    """A lifecycle event and its time."""

    time: float
    """The Unix time of the event, in seconds."""
    event: events.LifecycleEvent


@attrs.frozen
class LoggedLine:
    """A line of an instance, or a number of dropped lines."""

    plugin: str
    instance: int
    line: OutputLine
    """The line; its text is "" if lines were dropped."""
    dropped: int = 0
    """Number of lines dropped by the output rate limit of the plugin; 0 for a line."""


class EventLog:
    """A subscriber of lifecycle events. Lines are kept only while there is a reader of lines."""

    def __init__(self) -> None:
        self._events: BroadcastLog[LoggedEvent] = BroadcastLog(_MAX_EVENTS)
        self._lines: BroadcastLog[LoggedLine] = BroadcastLog(
            _MAX_LINES, _MAX_LINE_CHARACTERS, lambda logged: len(logged.line.text)
        )
        self._event_throttle, self._line_throttle = ReaderThrottle(), ReaderThrottle()

    def on_event(self, event: events.LifecycleEvent) -> None:
        """Append an event or a line."""
        if not isinstance(event, events.LineWritten | events.LinesDropped):
            self._events.append(LoggedEvent(time.time(), event))
        elif self._line_throttle.readers:
            text = event.line if isinstance(event, events.LineWritten) else ""
            dropped = event.count if isinstance(event, events.LinesDropped) else 0
            line = OutputLine(trio.current_time(), event.pid, event.stream, text)
            self._lines.append(LoggedLine(event.plugin, event.instance, line, dropped))

    async def read_events(
        self, is_wanted: Callable[[str], bool], last: int, *, follow: bool
    ) -> AsyncGenerator[tuple[int, LoggedEvent, int], None]:
        """Yield events of the wanted plugins with their number, and the number missed before them.

        The `last` ones come first; with `follow` then new ones, until cancelled.
        """
        log = self._events
        position, (past, _) = log.last_number, log.read_after(0)
        found = [(number, each) for number, each in past if is_wanted(each.event.plugin)]
        for number, logged_event in found[-last:] if last else ():
            yield number, logged_event, 0
        if follow:
            with self._event_throttle as throttle:
                new = log.follow(position, lambda each: is_wanted(each.event.plugin), throttle)
                async with aclosing(new):
                    async for each in new:
                        yield each

    @contextmanager
    def capture_lines(self) -> Iterator[int]:
        """Keep lines during the block; yields the position for `read_lines`."""
        with self._line_throttle:
            yield self._lines.last_number

    def read_lines(
        self, is_wanted: Callable[[str], bool], position: int
    ) -> AsyncGenerator[tuple[int, LoggedLine, int], None]:
        """Yield lines after a position, with their number and that of the lines missed before."""
        throttle = self._line_throttle
        return self._lines.follow(position, lambda each: is_wanted(each.plugin), throttle)
