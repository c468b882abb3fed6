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
from typing import Any

import attrs

_MAX_TRACE_EVENTS = 32
"""Number of events that are kept for each channel and subchannel."""
_ids = itertools.count(1)


def next_channelz_id() -> int:
    """Return an identifier that is unique in this process."""
    return next(_ids)


class ChannelzTable:
    """Objects of one kind, by channelz identifier; may be read from any thread."""

    def __init__(self) -> None:
        self._refs: dict[int, weakref.ref[Any]] = {}

    def __len__(self) -> int:
        return len(self._refs)

    def add(self, channelz_id: int, thing: object) -> None:
        """Add an object until it is removed or garbage collected."""
        self._refs[channelz_id] = weakref.ref(thing, lambda _: self.remove(channelz_id))

    def remove(self, channelz_id: int) -> None:
        """Remove an object; does nothing if it was removed already."""
        self._refs.pop(channelz_id, None)

    def get(self, channelz_id: int) -> Any:
        """Return an object; None if there is none with this identifier."""
        ref = self._refs.get(channelz_id)
        return None if ref is None else ref()

    def iter_from(self, start_id: int) -> Iterator[Any]:
        """Yield the objects with this identifier or a higher one, in order."""
        for each in sorted(self._refs):
            if each >= start_id and (thing := self.get(each)) is not None:
                yield thing


CHANNELS, SUBCHANNELS, SERVERS, SOCKETS = (ChannelzTable() for _ in range(4))
"""All channels, subchannels, servers, and connections together with listening sockets."""


class Severity(IntEnum):
    """Severity of a trace event, with the numbers of channelz."""

    INFO = 1
    WARNING = 2


@attrs.frozen
class TraceEvent:
    """An event in the life of a channel, subchannel or server."""

    timestamp: float
    """Unix time of the event, in seconds."""
    description: str
    severity: Severity
    subchannel_id: int
    """Identifier of the subchannel that the event concerns, 0 for none."""


@attrs.define(eq=False)
class TraceNode:
    """The channelz identifier of an object, its creation time and its trace events."""

    channelz_id: int = attrs.field(factory=next_channelz_id)
    created_at: float = attrs.field(factory=time.time)
    events: deque[TraceEvent] = attrs.field(factory=lambda: deque(maxlen=_MAX_TRACE_EVENTS))
    """The latest events, oldest first."""
    events_logged: int = 0
    """Number of all events."""

    def add_event(
        self, description: str, severity: Severity = Severity.INFO, subchannel_id: int = 0
    ) -> None:
        """Add an event that happens now."""
        self.events_logged += 1
        self.events.append(TraceEvent(time.time(), description, severity, subchannel_id))


@attrs.frozen(eq=False)
class ListenSocket:
    """A socket that a server listens on, which is in `SOCKETS` until it is dropped."""

    sock: socket.socket
    channelz_id: int = attrs.field(factory=next_channelz_id)

    def __attrs_post_init__(self) -> None:
        SOCKETS.add(self.channelz_id, self)

    @property
    def is_closed(self) -> bool:
        return self.sock.fileno() < 0
