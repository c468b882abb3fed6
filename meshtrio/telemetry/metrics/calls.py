"""The metrics of calls, by the names, units, labels and buckets of gRFC A66.

What is done for each call is as little as can be: objects without `__init__`, which would take
as long as all the rest, and no function called that can be spared.

Labels are bounded whatever peers send: a server tells methods it has handlers for, and calls all
others "other"; a status that gRPC does not list is UNKNOWN; a client tells so many pairs of target
and method, and calls the rest "other".
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from time import perf_counter
from typing import Generic, TypeVar

import attrs
import purerpc

from meshtrio.rpc.observe import (
    CANCELLED,
    ORIGINAL,
    AttemptKind,
    AttemptWatch,
    CallWatch,
    ClientObserver,
    MethodObserver,
    Outcome,
    ServerObserver,
    ServerWatch,
)
from meshtrio.rpc.seam import Method, Request
from meshtrio.rpc.stream import Stream
from meshtrio.telemetry.families import Family, Kind, Labels, Point
from meshtrio.telemetry.metrics.ended import LONG, Ended
from meshtrio.telemetry.metrics.histogram import LATENCY, SIZE
from meshtrio.wire.heads import RequestHead

MOST_METHODS = 1000
"""Pairs of target and method that a client tells apart."""
OTHER = "other"
_STATUSES = {status.value: status.name for status in purerpc.StatusCode}


@attrs.frozen
class _Figure:
    """What is measured of a call, or of an attempt."""

    name: str
    unit: str
    bounds: tuple[float, ...]
    text: str


SECONDS = _Figure("duration", "s", LATENCY, "The time that an {what} took.")
_ALL_MESSAGES = "total bytes (compressed but not encrypted) of all messages, without framing, of an"
_SENT = _Figure(
    "sent_total_compressed_message_size", "By", SIZE, f"Sent: {_ALL_MESSAGES} {{what}}."
)
_RECEIVED = _Figure(
    "rcvd_total_compressed_message_size", "By", SIZE, f"Received: {_ALL_MESSAGES} {{what}}."
)
_ALL = (SECONDS, _SENT, _RECEIVED)


class Calls:
    """The calls of one method, or their attempts."""

    __slots__ = ("ended", "labels", "started", "waiting")

    def __init__(self, labels: Labels, figures: Sequence[_Figure] = _ALL) -> None:
        self.labels = labels
        self.started = 0
        self.ended = Ended(*(figure.bounds for figure in figures))
        self.waiting = self.ended.waiting

    def add(self, code: int, seconds: float, stream: Stream | None) -> None:
        """One has ended; without a stream it never got that far."""
        sent, received = (0, 0) if stream is None else (stream.sent_size, stream.received_size)
        self.waiting += (code, seconds, sent, received)
        if len(self.waiting) >= LONG:
            self.ended.sort()


# -- servers ---------------------------------------------------------------------------------


class _ServedCall(ServerWatch):
    __slots__ = ("began", "calls", "stream")

    began: float
    calls: Calls
    stream: Stream

    def ended(self, outcome: Outcome) -> None:
        stream, waiting = self.stream, self.calls.waiting
        seconds = perf_counter() - self.began
        waiting += (outcome[0], seconds, stream.sent_size, stream.received_size)
        if len(waiting) >= LONG:
            self.calls.ended.sort()


class ServerMetrics(ServerObserver):
    """Counts the calls of a process's servers."""

    def __init__(self) -> None:
        self._methods: dict[str, Calls] = {}

    def begin(self, request: Request, method: Method, stream: Stream) -> ServerWatch:
        calls = self._methods.get(method.path) or self._add(method.path, method.path[1:])
        calls.started += 1
        call = _ServedCall()
        call.calls = calls
        call.stream = stream
        call.began = perf_counter()
        return call

    def refused(self, head: RequestHead, outcome: Outcome) -> None:
        calls = self._methods.get(head.path) or self._methods.get(OTHER)
        if calls is None:
            calls = self._add(OTHER, OTHER)
        calls.started += 1
        calls.add(outcome[0], 0.0, None)

    def _add(self, key: str, label: str) -> Calls:
        calls = self._methods[key] = Calls((("grpc.method", label),))
        return calls

    def families(self) -> list[Family]:
        """What was counted until now."""
        methods = list(self._methods.values())
        started = [Point(calls.labels, calls.started) for calls in methods]
        about = "grpc.server.call"
        text = "The total number of RPCs that came, including those that have not completed."
        return [
            Family(f"{about}.started", Kind.COUNTER, "{call}", text, started),
            *histograms_of(about, "RPC", methods, _ALL),
        ]


# -- clients ---------------------------------------------------------------------------------


class _Called(MethodObserver):
    """The calls of one method of one target: those that callers make, and their attempts."""

    __slots__ = ("attempts", "calls")

    def __init__(self, labels: Labels) -> None:
        self.attempts = Calls(labels)
        self.calls = Calls(labels, [SECONDS])

    def begin(self) -> CallWatch:
        call = _Call()
        call.method = self
        call.last = CANCELLED
        call.began = perf_counter()
        return call

    def sort(self) -> None:
        self.attempts.ended.sort()
        self.calls.ended.sort()


class _Call(CallWatch, AttemptWatch):
    """A call, and the first of its attempts, which most of the time is the only one."""

    __slots__ = ("attempt_began", "began", "last", "method")

    attempt_began: float
    """Later than the call, as what its interceptors do is none of it."""
    began: float
    last: int
    """The status of its last attempt; CANCELLED for a call that is given up before there is one."""
    method: _Called

    def attempt(self, kind: AttemptKind, previous: int) -> AttemptWatch:
        self.method.attempts.started += 1
        if kind is not ORIGINAL:
            return _Attempt(self)
        self.attempt_began = perf_counter()
        return self

    def finished(self, outcome: Outcome, stream: Stream | None) -> None:
        self.last = code = outcome[0]
        seconds = perf_counter() - self.attempt_began
        waiting = self.method.attempts.waiting
        if stream is None:
            waiting += (code, seconds, 0, 0)
        else:
            waiting += (code, seconds, stream.sent_size, stream.received_size)

    def ended(self, outcome: Outcome | None) -> None:
        method = self.method
        waiting = method.calls.waiting
        waiting += (self.last if outcome is None else outcome[0], perf_counter() - self.began)
        if len(waiting) >= LONG:
            method.sort()


class _Attempt(AttemptWatch):
    """One that is not the first of its call."""

    __slots__ = ("_began", "_call")

    def __init__(self, call: _Call) -> None:
        self._call = call
        self._began = perf_counter()

    def finished(self, outcome: Outcome, stream: Stream | None) -> None:
        self._call.last = outcome[0]
        self._call.method.attempts.add(outcome[0], perf_counter() - self._began, stream)


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
        attempts = [called.attempts for called in methods]
        calls = [called.calls for called in methods]
        return [
            Family(f"{about}.started", Kind.COUNTER, "{attempt}", text, started),
            *histograms_of(about, "RPC attempt", attempts, _ALL),
            *histograms_of("grpc.client.call", "RPC", calls, [SECONDS]),
        ]


# -- telling ---------------------------------------------------------------------------------


def histograms_of(
    about: str, what: str, methods: Sequence[Calls], figures: Sequence[_Figure]
) -> list[Family]:
    found = [
        (_with_status(calls.labels, code), histograms)
        for calls in methods
        for code, histograms in calls.ended.by_status().items()
    ]
    return [
        Family(
            f"{about}.{figure.name}",
            Kind.HISTOGRAM,
            figure.unit,
            figure.text.format(what=what),
            [Point(labels, histograms[number].told()) for labels, histograms in found],
        )
        for number, figure in enumerate(figures)
    ]


def _with_status(labels: Labels, code: int) -> Labels:
    """In the order of the names, as OpenTelemetry's exporter has them."""
    return tuple(sorted((*labels, ("grpc.status", _STATUSES[code]))))
