"""What this process has of channels, subchannels, servers and sockets, for channelz (gRFC A14).

Each has a number that is never used again. To be listed keeps nothing alive, and whoever ends
leaves at once, without waiting for the garbage collector.
"""

from __future__ import annotations

import itertools
import socket
import time
import weakref
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from enum import IntEnum
from typing import Any, Protocol

import attrs

_MOST_EVENTS = 32
"""That are kept of each channel and subchannel."""
_numbers = itertools.count(1)


def next_number() -> int:
    """A number that nothing in this process has had."""
    return next(_numbers)


class Roll:
    """Things of one kind, by their numbers; may be read from any thread."""

    def __init__(self) -> None:
        self._here: dict[int, weakref.ref[Any]] = {}

    def enter(self, number: int, thing: object) -> None:
        """List it until it leaves, or is nobody's any more."""
        self._here[number] = weakref.ref(thing, lambda _: self.leave(number))

    def leave(self, number: int) -> None:
        """Does nothing where it has left already."""
        self._here.pop(number, None)

    def find(self, number: int) -> Any:
        """None where it is not there, or no more."""
        ref = self._here.get(number)
        return None if ref is None else ref()

    def since(self, number: int) -> Iterator[Any]:
        """Those from a number on, by their numbers."""
        for each in sorted(self._here):
            if each >= number and (thing := self.find(each)) is not None:
                yield thing


CHANNELS, SUBCHANNELS, SERVERS, SOCKETS = Roll(), Roll(), Roll(), Roll()
"""A channel's, links, servers and connections with listening sockets."""


class Severity(IntEnum):
    """With channelz's numbers."""

    INFO = 1
    WARNING = 2


@attrs.frozen
class Event:
    """Something worth telling that happened at a Unix time; `child` is a subchannel's number."""

    at: float
    text: str
    severity: Severity
    child: int


class Entry:
    """What is told of a thing beside what it knows itself: number, birth, and what happened."""

    __slots__ = ("born", "events", "logged", "number")

    def __init__(self) -> None:
        self.number = next_number()
        self.born = time.time()
        self.events: deque[Event] = deque(maxlen=_MOST_EVENTS)
        """The latest, oldest first."""
        self.logged = 0
        """How many there have been."""

    def note(self, text: str, severity: Severity = Severity.INFO, child: int = 0) -> None:
        self.logged += 1
        self.events.append(Event(time.time(), text, severity, child))


@attrs.frozen(eq=False)
class Door:
    """A socket that a server listens on."""

    sock: socket.socket
    number: int = attrs.field(factory=next_number)

    @property
    def closed(self) -> bool:
        return self.sock.fileno() < 0


class Serving(Protocol):
    """What is used of a server."""

    entry: Entry
    door: Door | None


@contextmanager
def serving(server: Serving, listener: socket.socket) -> Iterator[None]:
    """List a server, and what it listens on, for the block."""
    server.door = Door(listener)
    SERVERS.enter(server.entry.number, server)
    SOCKETS.enter(server.door.number, server.door)
    try:
        yield
    finally:
        SOCKETS.leave(server.door.number)
        SERVERS.leave(server.entry.number)


def move(server: Serving, listener: socket.socket) -> None:
    """List another socket that a server listens on, instead of the one before."""
    if server.door is not None:
        SOCKETS.leave(server.door.number)
    server.door = Door(listener)
    SOCKETS.enter(server.door.number, server.door)
