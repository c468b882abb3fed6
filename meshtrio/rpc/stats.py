"""Counters of connections, channels and servers, cheap enough for every call."""

from __future__ import annotations

import attrs


@attrs.define(eq=False)
class CallCounters:
    """Counters of one connection, channel or server since it was made; they only count up.

    A `ClientConnection` counts less than a `ServerConnection`, because stream identifiers already
    say how many calls it has started: read both with `Connection.statistics`.
    """

    started: int = 0
    """Number of calls that were started."""
    succeeded: int = 0
    """Number of calls that ended with status OK."""
    failed: int = 0
    """Number of calls that ended with another status, or without one."""
    last_started: float = 0.0
    """Time at which the last call was started, 0 if none was.

    It is a Unix time, except on a server's connection, which goes by trio's clock.
    """
    messages_sent: int = 0
    """Number of sent messages; on a client's connection without those of unary calls."""
    messages_received: int = 0
    """Number of received messages; on a client's connection without those of unary calls."""
    streamed_requests: int = 0
    """Number of a client's calls whose requests are counted in `messages_sent`, or not at all.

    All other calls have sent one request.
    """
    streamed_replies: int = 0
    """Number of a client's successful calls whose replies are counted in `messages_received`, or
    not at all. All other successful calls have received one reply."""
    keepalives_sent: int = 0
    """Number of keepalive PINGs that were sent."""

    def end_call(self, *, failed: bool) -> None:
        """Count the end of a call, off the hot path."""
        if failed:
            self.failed += 1
        else:
            self.succeeded += 1

    def add_calls(self, counters: CallCounters) -> None:
        """Add the calls that other counters have counted."""
        self.started += counters.started
        self.succeeded += counters.succeeded
        self.failed += counters.failed
        self.last_started = max(self.last_started, counters.last_started)


@attrs.frozen
class ConnectionStatistics:
    """What one connection has counted, for channelz."""

    calls: CallCounters
    """The connection's calls by their status; `last_started` is a Unix time."""
    streams: CallCounters
    """The connection's streams by how HTTP/2 ended them: those that the server ended succeeded."""
    messages: tuple[int, int]
    """Number of messages sent and received, without those of calls that are proxied."""
