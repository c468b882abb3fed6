"""The journals of one mesh: what happened to its plugins, and what they write."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import contextmanager

import attrs
import trio

from meshtrio.services.journal import Journal, Pace
from meshtrio.supervise import events
from meshtrio.supervise.processes.output import Line

_EVENTS_KEPT = 1000
_LINES_KEPT = 10_000
_CHARACTERS_KEPT = 1024 * 1024


@attrs.frozen
class Happening:
    """An event, and when it was, in seconds since the epoch."""

    time: float
    event: events.Event


@attrs.frozen
class Writing:
    """A line of an instance; `dropped` lines before it were more than its config lets through."""

    plugin: str
    instance: int
    line: Line
    dropped: int = 0


class Chronicle:
    """A subscriber to events. Lines are kept here only for who follows them."""

    def __init__(self) -> None:
        self._happenings: Journal[Happening] = Journal(_EVENTS_KEPT)
        self._writings: Journal[Writing] = Journal(
            _LINES_KEPT, _CHARACTERS_KEPT, lambda writing: len(writing.line.text)
        )
        self._event_pace, self._line_pace = Pace(), Pace()

    def take(self, event: events.Event) -> None:
        match event:
            case events.LineWritten(pid=pid, stream=stream, line=text):
                self._write(event, Line(trio.current_time(), pid, stream, text))
            case events.LinesDropped(pid=pid, stream=stream, count=count):
                self._write(event, Line(trio.current_time(), pid, stream, ""), count)
            case _:
                self._happenings.append(Happening(time.time(), event))

    def _write(self, event: events.Event, line: Line, dropped: int = 0) -> None:
        if self._line_pace.readers:
            self._writings.append(Writing(event.plugin, event.instance, line, dropped))

    async def happenings(
        self, wanted: Callable[[str], bool], last: int, *, follow: bool
    ) -> AsyncGenerator[tuple[int, Happening, int], None]:
        """Give the number of each, and how many before it could not be told.

        Begins with the `last` ones that are kept. Ends with them unless it is to `follow`.
        """
        journal = self._happenings
        past, _ = journal.after(0)
        found = [(number, each) for number, each in past if wanted(each.event.plugin)]
        position, missed = journal.end, 0
        for number, happening in found[-last:] if last else ():
            yield number, happening, 0
        with self._event_pace:
            while follow:
                await journal.wait(position)
                found, more = journal.after(position)
                position, missed = journal.end, missed + more
                for number, happening in found:
                    if wanted(happening.event.plugin):
                        yield number, happening, missed
                        missed = 0
                await self._event_pace.rest()

    @contextmanager
    def reading_lines(self) -> Iterator[int]:
        """Have lines kept during the block; gives where `writings` is to begin."""
        with self._line_pace:
            yield self._writings.end

    async def writings(
        self, wanted: Callable[[str], bool], position: int
    ) -> AsyncGenerator[tuple[Writing, int], None]:
        """Give what is written from there on, and how many lines before it could not be told."""
        journal, missed = self._writings, 0
        while True:
            await journal.wait(position)
            found, more = journal.after(position)
            position, missed = journal.end, missed + more
            for _, writing in found:
                if wanted(writing.plugin):
                    yield writing, missed
                    missed = 0
            await self._line_pace.rest()
