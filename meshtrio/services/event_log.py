"""The last lifecycle events of a mesh, and the output lines of its plugins for readers."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping
from contextlib import aclosing, contextmanager, suppress
from typing import Any

import attrs
import trio

from meshtrio.services.broadcast_log import BroadcastLog, ReaderThrottle
from meshtrio.supervisor import events
from meshtrio.supervisor.process.output.output_lines import OutputLine
from meshtrio.util.plain_data import PlainDataError, from_plain, to_plain

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


@attrs.frozen(kw_only=True)
class SavedEvent:
    """A lifecycle event as plain data."""

    time: float
    kind: str
    fields: Mapping[str, Any]


@attrs.frozen(kw_only=True)
class SavedEvents:
    """The events of a log."""

    last_number: int = 0
    events: tuple[SavedEvent, ...] = ()


class EventLog:
    """A subscriber of lifecycle events. Lines are kept only while there is a reader of lines."""

    def __init__(self) -> None:
        self._events: BroadcastLog[LoggedEvent] = BroadcastLog(_MAX_EVENTS)
        self._lines: BroadcastLog[LoggedLine] = BroadcastLog(
            _MAX_LINES, _MAX_LINE_CHARACTERS, lambda logged: len(logged.line.text)
        )
        self._event_throttle, self._line_throttle = ReaderThrottle(), ReaderThrottle()

    def adopt(self, saved: SavedEvents) -> None:
        """Continue the log of events that was handed over in an upgrade.

        Those that this version of the program does not know are left out.
        """
        found: list[LoggedEvent] = []
        for each in saved.events:
            kind = getattr(events, each.kind, None)
            if isinstance(kind, type) and issubclass(kind, events.LifecycleEvent):
                with suppress(PlainDataError):
                    found.append(LoggedEvent(each.time, from_plain(kind, each.fields)))
        self._events.adopt(found, saved.last_number)

    def save(self) -> SavedEvents:
        """Return what an upgrade hands over."""
        past, _ = self._events.read_after(0)
        return SavedEvents(
            last_number=self._events.last_number,
            events=tuple(
                SavedEvent(
                    time=each.time, kind=type(each.event).__name__, fields=to_plain(each.event)
                )
                for _, each in past
            ),
        )

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
