"""Counters of connections, channels and servers, cheap enough for every call; a server's load."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from meshtrio.grpc.status import CallStatus

if TYPE_CHECKING:
    from meshtrio.rpc.method_load import MethodTracker

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

    Durations are recorded only within `record_durations`, and methods within `watch_methods`.
    """

    def __init__(self, list_running: Callable[[], Iterable[str]] = tuple) -> None:
        """`list_running` returns the paths of the calls that are running."""
        self.started = self.ended = self.failed = 0
        self._samples: list[list[float]] = []
        self._list_running = list_running
        self._trackers: list[tuple[float, MethodTracker[str]]] = []
        """By path, with the time since when they count."""
        self._is_watched = False
        """Whether there are samples or trackers, for which calls are timed."""

    @staticmethod
    def is_counted(service: str) -> bool:
        """Return whether calls of a service count as load."""
        return not service.startswith(("grpc.", "meshtrio."))

    def start_call(self, path: str) -> float:
        """Count the start of a call; return the value to pass to `end_call`."""
        self.started += 1
        return self._start_watched(path) if self._is_watched else 0.0

    def _start_watched(self, path: str) -> float:
        for _, tracker in self._trackers:
            tracker.start_call(path, is_known=True)
        return time.perf_counter()

    def end_call(self, started_at: float, path: str, status: CallStatus | None) -> None:
        """Count the end of a call; `status` is None if it is OK."""
        self.ended += 1
        self.failed += status is not None
        if self._is_watched:
            self._end_watched(started_at, path, 0 if status is None else status[0])

    def _end_watched(self, started_at: float, path: str, code: int) -> None:
        seconds = time.perf_counter() - started_at
        for since, tracker in self._trackers:
            load = tracker.get(path, is_known=True)
            if started_at >= since:
                load.record(code, seconds)
            else:
                load.record_earlier(code)
        if started_at:
            for samples in self._samples:
                if len(samples) < _MAX_SAMPLES:
                    samples.append(seconds)

    def count_rejected(self, path: str, code: int, *, has_handler: bool) -> None:
        """Count a call that was rejected before its handler started, for those who watch."""
        if self._trackers and self.is_counted(path[1:]):
            for _, tracker in self._trackers:
                tracker.count_rejected(path if has_handler else tracker.other, code)

    @contextmanager
    def record_durations(self) -> Iterator[list[float]]:
        """Append the duration of each call, in seconds, to a list that the caller empties."""
        samples: list[float] = []
        self._samples.append(samples)
        self._is_watched = True
        try:
            yield samples
        finally:
            # By identity, because two lists may be equal.
            self._samples = [each for each in self._samples if each is not samples]
            self._is_watched = bool(self._samples or self._trackers)

    @contextmanager
    def watch_methods(self) -> Iterator[MethodTracker[str]]:
        """Count calls by path during the block, those included that are running already."""
        from meshtrio.rpc.method_load import OTHER_METHOD, MethodTracker  # Few are watched.

        tracker = MethodTracker(OTHER_METHOD)
        for path in self._list_running():
            if self.is_counted(path[1:]):
                tracker.get(path, is_known=True).earlier += 1
        entry = time.perf_counter(), tracker
        self._trackers.append(entry)
        self._is_watched = True
        try:
            yield tracker
        finally:
            self._trackers = [each for each in self._trackers if each is not entry]
            self._is_watched = bool(self._samples or self._trackers)
