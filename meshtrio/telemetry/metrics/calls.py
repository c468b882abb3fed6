"""The metrics of calls, by the names, units, labels and buckets of gRFC A66 (and A96 for retries).

Labels are bounded whatever peers send: a server tells methods it has handlers for, and calls all
others "other"; a status that gRPC does not list is UNKNOWN; a client tells so many pairs of target
and method, and calls the rest "other".
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from time import perf_counter
from typing import Generic, TypeVar

import purerpc

from meshtrio.rpc.observe import (
    CANCELLED,
    ORIGINAL,
    UNKNOWN,
    AttemptKind,
    AttemptWatch,
    CallWatch,
    ClientObserver,
    MethodObserver,
    ObservedStream,
    Outcome,
    ServerObserver,
    ServerWatch,
)
from meshtrio.rpc.seam import Method, Request
from meshtrio.telemetry.families import Distribution, Family, Kind, Labels, Point
from meshtrio.telemetry.metrics.histogram import LATENCY, SIZE, Histogram
from meshtrio.wire.heads import RequestHead

_BATCH = 256
"""Calls of one method and status whose figures wait to be sorted into buckets."""
MOST_METHODS = 1000
"""Pairs of target and method that a client tells apart."""
OTHER = "other"
_STATUSES = {status.value: status.name for status in purerpc.StatusCode}


class _Ended:
    """The calls of one method that ended with one status: how long, and how many bytes.

    Numbers wait in flat lists: tuples of them would be the only things a call leaves behind, and
    have the garbage collector look for cycles among all there is, again and again.
    """

    __slots__ = ("durations", "note_received", "note_sent", "received", "seconds", "sent")

    def __init__(self) -> None:
        self.durations = Histogram(LATENCY)
        self.sent = Histogram(SIZE)
        self.received = Histogram(SIZE)
        self.seconds = self.durations.waiting
        self.note_sent = self.sent.waiting.append
        self.note_received = self.received.waiting.append

    def sort(self) -> None:
        self.durations.sort()
        self.sent.sort()
        self.received.sort()


class _Calls:
    """The calls of one method."""

    __slots__ = ("by_status", "labels", "started")

    def __init__(self, labels: Labels) -> None:
        self.labels = labels
        self.started = 0
        self.by_status = {0: _Ended()}

    def ended(self, code: int, seconds: float, sent: int, received: int) -> None:
        ended = self.by_status.get(code) or self._first(code)
        waiting = ended.seconds
        waiting.append(seconds)
        ended.note_sent(sent)
        ended.note_received(received)
        if len(waiting) >= _BATCH:
            ended.sort()

    def took(self, code: int, seconds: float) -> None:
        """The same for a call of a client, whose bytes are those of its attempts."""
        ended = self.by_status.get(code) or self._first(code)
        waiting = ended.seconds
        waiting.append(seconds)
        if len(waiting) >= _BATCH:
            ended.durations.sort()

    def _first(self, code: int) -> _Ended:
        known = code if code in _STATUSES else UNKNOWN
        return self.by_status.setdefault(known, _Ended())


# -- servers ---------------------------------------------------------------------------------


class _ServedCall(ServerWatch):
    __slots__ = ("_began", "_calls", "_stream")

    def __init__(self, calls: _Calls, stream: ObservedStream) -> None:
        self._calls = calls
        self._stream = stream
        self._began = perf_counter()

    def ended(self, outcome: Outcome) -> None:
        stream = self._stream
        seconds = perf_counter() - self._began
        self._calls.ended(outcome[0], seconds, stream.sent_size, stream.received_size)


class ServerMetrics(ServerObserver):
    """Counts the calls of a process's servers."""

    def __init__(self) -> None:
        self._methods: dict[str, _Calls] = {}

    def begin(self, request: Request, method: Method, stream: ObservedStream) -> ServerWatch:
        calls = self._methods.get(method.path) or self._add(method.path, method.path[1:])
        calls.started += 1
        return _ServedCall(calls, stream)

    def refused(self, head: RequestHead, outcome: Outcome) -> None:
        calls = self._methods.get(head.path) or self._methods.get(OTHER)
        if calls is None:
            calls = self._add(OTHER, OTHER)
        calls.started += 1
        calls.ended(outcome[0], 0.0, 0, 0)

    def _add(self, key: str, label: str) -> _Calls:
        calls = self._methods[key] = _Calls((("grpc.method", label),))
        return calls

    def families(self) -> list[Family]:
        """What was counted until now."""
        methods = list(self._methods.values())
        started = [Point(calls.labels, calls.started) for calls in methods]
        about = "grpc.server.call"
        text = "The total number of RPCs that came, including those that have not completed."
        return [
            Family(f"{about}.started", Kind.COUNTER, "{call}", text, started),
            *_histograms(about, "RPC", methods),
        ]


# -- clients ---------------------------------------------------------------------------------


class _Called(MethodObserver):
    """The calls of one method of one target: those that callers make, and their attempts."""

    __slots__ = ("attempts", "calls")

    def __init__(self, labels: Labels) -> None:
        self.attempts = _Calls(labels)
        self.calls = _Calls(labels)

    def begin(self) -> CallWatch:
        return _Call(self)


class _Attempt(AttemptWatch):
    """One that is not the first of its call."""

    __slots__ = ("_began", "_call")

    def __init__(self, call: _Call) -> None:
        self._call = call
        self._began = perf_counter()

    def finished(self, outcome: Outcome, stream: ObservedStream | None) -> None:
        self._call.note(outcome[0], perf_counter() - self._began, stream)


class _Call(CallWatch, AttemptWatch):
    """A call, and the first of its attempts, which most of the time is the only one."""

    __slots__ = ("_began", "_last", "_method")

    def __init__(self, method: _Called) -> None:
        self._method = method
        self._last = -1
        """The status of its last attempt; negative while there was none."""
        self._began = perf_counter()

    def attempt(self, kind: AttemptKind, previous: int) -> AttemptWatch:
        self._method.attempts.started += 1
        return self if kind is ORIGINAL else _Attempt(self)

    def finished(self, outcome: Outcome, stream: ObservedStream | None) -> None:
        self.note(outcome[0], perf_counter() - self._began, stream)

    def note(self, code: int, seconds: float, stream: ObservedStream | None) -> None:
        self._last = code
        if stream is None:
            self._method.attempts.ended(code, seconds, 0, 0)
        else:
            self._method.attempts.ended(code, seconds, stream.sent_size, stream.received_size)

    def ended(self, outcome: Outcome | None) -> None:
        code = self._last if outcome is None else outcome[0]
        self._method.calls.took(code if code >= 0 else CANCELLED, perf_counter() - self._began)


M = TypeVar("M")


class Methods(Generic[M]):
    """What is kept for each method of each target that stubs are made for; their number is bounded,
    since a program may make them by names it was told."""

    def __init__(self, make: Callable[[Labels], M]) -> None:
        self._make = make
        self._found: dict[tuple[str, str], M] = {}

    def of(self, target: str, method: Method) -> M:
        key = (target, method.path[1:])
        if key not in self._found and len(self._found) >= MOST_METHODS:
            key = (OTHER, OTHER)
        found = self._found.get(key)
        if found is None:
            labels = (("grpc.method", key[1]), ("grpc.target", key[0]))
            found = self._found[key] = self._make(labels)
        return found

    def __iter__(self) -> Iterator[M]:
        return iter(list(self._found.values()))


class ClientMetrics(ClientObserver):
    """Counts the calls of a process's channels."""

    def __init__(self) -> None:
        self._methods = Methods(_Called)

    def method(self, target: str, method: Method) -> MethodObserver:
        return self._methods.of(target, method)

    def families(self) -> list[Family]:
        """What was counted until now."""
        methods = list(self._methods)
        about = "grpc.client.attempt"
        text = "The total number of RPC attempts started, including those that have not completed."
        started = [Point(called.attempts.labels, called.attempts.started) for called in methods]
        calls = _histograms("grpc.client.call", "RPC", [called.calls for called in methods])
        return [
            Family(f"{about}.started", Kind.COUNTER, "{attempt}", text, started),
            *_histograms(about, "RPC attempt", [called.attempts for called in methods]),
            calls[0],
        ]


# -- telling ---------------------------------------------------------------------------------


def _histograms(about: str, what: str, methods: Sequence[_Calls]) -> list[Family]:
    """Duration, sizes sent and sizes received."""
    found = []
    for calls in methods:
        for code, ended in list(calls.by_status.items()):
            ended.sort()
            if not any(ended.durations.counts):
                continue
            status = ("grpc.status", _STATUSES[code])
            # In the order of the names, as OpenTelemetry's exporter has them.
            found.append((tuple(sorted((*calls.labels, status))), ended))

    def family(
        name: str, text: str, unit: str, points: Iterable[tuple[Labels, Histogram]]
    ) -> Family:
        return _histogram(f"{about}.{name}", text, unit, points)

    sizes = "total bytes (compressed but not encrypted) of all messages, without framing, of an"
    return [
        family(
            "duration", f"The time that an {what} took.", "s", [(n, e.durations) for n, e in found]
        ),
        family(
            "sent_total_compressed_message_size",
            f"Sent: {sizes} {what}.",
            "By",
            [(labels, ended.sent) for labels, ended in found],
        ),
        _histogram(
            f"{about}.rcvd_total_compressed_message_size",
            f"Received: {sizes} {what}.",
            "By",
            [(labels, ended.received) for labels, ended in found],
        ),
    ]


def _histogram(
    name: str, text: str, unit: str, points: Iterable[tuple[Labels, Histogram]]
) -> Family:
    bounds = LATENCY if unit == "s" else SIZE
    told = [
        Point(labels, Distribution(tuple(histogram.counts), histogram.total))
        for labels, histogram in points
    ]
    return Family(name, Kind.HISTOGRAM, unit, text, told, bounds)
