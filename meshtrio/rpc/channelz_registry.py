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

_MAX_TRACE_EVENTS = 32
"""That are kept of each channel and subchannel."""
_ids = itertools.count(1)


def next_channelz_id() -> int:
    """A number that nothing in this process has had."""
    return next(_ids)


class ChannelzTable:
    """Things of one kind, by their numbers; may be read from any thread."""

    def __init__(self) -> None:
        self._refs: dict[int, weakref.ref[Any]] = {}

    def add(self, channelz_id: int, thing: object) -> None:
        """List it until it leaves, or is nobody's any more."""
        self._refs[channelz_id] = weakref.ref(thing, lambda _: self.remove(channelz_id))

    def remove(self, channelz_id: int) -> None:
        """Does nothing where it has left already."""
        self._refs.pop(channelz_id, None)

    def get(self, channelz_id: int) -> Any:
        """None where it is not there, or no more."""
        ref = self._refs.get(channelz_id)
        return None if ref is None else ref()

    def iter_from(self, start_id: int) -> Iterator[Any]:
        """Those from a number on, by their numbers."""
        for each in sorted(self._refs):
            if each >= start_id and (thing := self.get(each)) is not None:
                yield thing


CHANNELS, SUBCHANNELS, SERVERS, SOCKETS = (
    ChannelzTable(),
    ChannelzTable(),
    ChannelzTable(),
    ChannelzTable(),
)
"""A channel's, links, servers and connections with listening sockets."""


class Severity(IntEnum):
    """With channelz's numbers."""

    INFO = 1
    WARNING = 2


@attrs.frozen
class TraceEvent:
    """Something worth telling that happened at a Unix time; `child` is a subchannel's number."""

    timestamp: float
    description: str
    severity: Severity
    subchannel_id: int


class TraceNode:
    """What is told of a thing beside what it knows itself: number, birth, and what happened."""

    __slots__ = ("channelz_id", "created_at", "events", "events_logged")

    def __init__(self) -> None:
        self.channelz_id = next_channelz_id()
        self.created_at = time.time()
        self.events: deque[TraceEvent] = deque(maxlen=_MAX_TRACE_EVENTS)
        """The latest, oldest first."""
        self.events_logged = 0
        """How many there have been."""

    def add_event(
        self, description: str, severity: Severity = Severity.INFO, subchannel_id: int = 0
    ) -> None:
        self.events_logged += 1
        self.events.append(TraceEvent(time.time(), description, severity, subchannel_id))


@attrs.frozen(eq=False)
class ListenSocket:
    """A socket that a server listens on."""

    sock: socket.socket
    channelz_id: int = attrs.field(factory=next_channelz_id)

    @property
    def is_closed(self) -> bool:
        return self.sock.fileno() < 0


class TracedServer(Protocol):
    """What is used of a server."""

    trace_node: TraceNode
    listen_socket: ListenSocket | None


@contextmanager
def register_server(server: TracedServer, listener: socket.socket) -> Iterator[None]:
    """List a server, and what it listens on, for the block."""
    server.listen_socket = ListenSocket(listener)
    SERVERS.add(server.trace_node.channelz_id, server)
    SOCKETS.add(server.listen_socket.channelz_id, server.listen_socket)
    try:
        yield
    finally:
        SOCKETS.remove(server.listen_socket.channelz_id)
        SERVERS.remove(server.trace_node.channelz_id)


def replace_listen_socket(server: TracedServer, listener: socket.socket) -> None:
    """List another socket that a server listens on, instead of the one before."""
    if server.listen_socket is not None:
        SOCKETS.remove(server.listen_socket.channelz_id)
    server.listen_socket = ListenSocket(listener)
    SOCKETS.add(server.listen_socket.channelz_id, server.listen_socket)
