"""Counters of connections, channels and servers, cheap enough for every call; a server's load."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

_MAX_SAMPLES = 10_000


class CallCounters:
    """Counters of one connection, channel or server since it was made; they only count up.

    A `ClientConnection` counts less than a `ServerConnection`, because stream identifiers already
    say how many calls it has started: read both with `Connection.statistics`.
    """

    __slots__ = (
        "failed",
        "keepalives_sent",
        "last_started",
        "messages_received",
        "messages_sent",
        "started",
        "streamed_replies",
        "streamed_requests",
        "succeeded",
    )

    def __init__(self, started: int = 0, succeeded: int = 0, failed: int = 0) -> None:
        self.started = started
        """Number of calls that were started."""
        self.succeeded = succeeded
        """Number of calls that ended with status OK."""
        self.failed = failed
        """Number of calls that ended with another status, or without one."""
        self.last_started = 0.0
        """Time at which the last call was started, 0 if none was.

        It is a Unix time, except on a server's connection, which goes by trio's clock.
        """
        self.messages_sent = 0
        """Number of sent messages; on a client's connection without those of unary calls."""
        self.messages_received = 0
        """Number of received messages; on a client's connection without those of unary calls."""
        self.streamed_requests = 0
        """Number of a client's calls whose requests are counted in `messages_sent`, or not at all.

        All other calls have sent one request.
        """
        self.streamed_replies = 0
        """Number of a client's successful calls whose replies are counted in `messages_received`,
        or not at all. All other successful calls have received one reply."""
        self.keepalives_sent = 0
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


class ConnectionStatistics:
    """What one connection has counted, for channelz."""

    __slots__ = ("calls", "messages", "streams")

    def __init__(
        self, calls: CallCounters, streams: CallCounters, messages: tuple[int, int]
    ) -> None:
        self.calls = calls
        """The connection's calls by their status; `last_started` is a Unix time."""
        self.streams = streams
        """The connection's streams by how HTTP/2 ended them: those that the server ended
        succeeded."""
        self.messages = messages
        """Number of messages sent and received, without those of calls that are proxied."""


class LoadRecorder:
    """Counts the load of a server: calls of its own services, without those of health and so on.

    Durations are recorded only within `record_durations`.
    """

    def __init__(self) -> None:
        self.started = self.ended = self.failed = 0
        self._samples: list[list[float]] = []

    @staticmethod
    def is_counted(service: str) -> bool:
        """Return whether calls of a service count as load."""
        return not service.startswith(("grpc.", "meshtrio."))

    def start_call(self) -> float:
        """Count the start of a call; return the value to pass to `end_call`."""
        self.started += 1
        return time.perf_counter() if self._samples else 0.0

    def end_call(self, started_at: float, *, failed: bool) -> None:
        """Count the end of a call."""
        self.ended += 1
        self.failed += failed
        if started_at and self._samples:
            seconds = time.perf_counter() - started_at
            for samples in self._samples:
                if len(samples) < _MAX_SAMPLES:
                    samples.append(seconds)

    @contextmanager
    def record_durations(self) -> Iterator[list[float]]:
        """Append the duration of each call, in seconds, to a list that the caller empties."""
        samples: list[float] = []
        self._samples.append(samples)
        try:
            yield samples
        finally:
            # By identity, because two lists may be equal.
            self._samples = [each for each in self._samples if each is not samples]
