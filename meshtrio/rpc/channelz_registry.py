"""The channels, subchannels, servers and sockets of this process, for channelz (gRFC A14).

Each has an identifier that is never reused. The tables hold weak references, and objects remove
themselves when they close, without waiting for the garbage collector.
"""

from __future__ import annotations

import itertools
import socket
import time
import weakref
from collections import deque
from collections.abc import Iterator
from enum import IntEnum
from operator import attrgetter
from typing import Any

_MAX_TRACE_EVENTS = 32
"""Number of events that are kept for each channel and subchannel."""
next_channelz_id = itertools.count(1).__next__
"""Returns an identifier that is unique in this process."""


class ChannelzTable(weakref.WeakValueDictionary[int, Any]):
    """Objects of one kind, by channelz identifier; may be read from any thread."""

    def iter_from(self, start_id: int) -> Iterator[Any]:
        """Yield the objects with this identifier or a higher one, in order."""
        for ref in sorted(self.valuerefs(), key=attrgetter("key")):
            if ref.key >= start_id and (thing := ref()) is not None:
                yield thing


CHANNELS, SUBCHANNELS, SERVERS, SOCKETS = (ChannelzTable() for _ in range(4))
"""All channels, subchannels, servers, and connections together with listening sockets."""


class Severity(IntEnum):
    """Severity of a trace event, with the numbers of channelz."""

    INFO = 1
    WARNING = 2


class TraceEvent:
    """An event in the life of a channel, subchannel or server."""

    __slots__ = ("description", "severity", "subchannel_id", "timestamp")

    def __init__(
        self, timestamp: float, description: str, severity: Severity, subchannel_id: int
    ) -> None:
        self.timestamp = timestamp
        """Unix time of the event, in seconds."""
        self.description = description
        self.severity = severity
        self.subchannel_id = subchannel_id
        """Identifier of the subchannel that the event concerns, 0 for none."""


class TraceNode:
    """The channelz identifier of an object, its creation time and its trace events."""

    __slots__ = ("channelz_id", "created_at", "events", "events_logged")

    def __init__(self) -> None:
        self.channelz_id = next_channelz_id()
        self.created_at = time.time()
        self.events: deque[TraceEvent] = deque(maxlen=_MAX_TRACE_EVENTS)
        """The latest events, oldest first."""
        self.events_logged = 0
        """Number of all events."""

    def add_event(
        self, description: str, severity: Severity = Severity.INFO, subchannel_id: int = 0
    ) -> None:
        """Add an event that happens now."""
        self.events_logged += 1
        self.events.append(TraceEvent(time.time(), description, severity, subchannel_id))


class ListenSocket:
    """A socket that a server listens on, which is in `SOCKETS` until it is dropped."""

    __slots__ = ("__weakref__", "channelz_id", "sock")

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.channelz_id = next_channelz_id()
        SOCKETS[self.channelz_id] = self
