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

from meshtrio.grpc.headers import RequestHeaders
from meshtrio.grpc.status import CANCELLED, CallStatus
from meshtrio.rpc.context import ServerContext
from meshtrio.rpc.method import Method
from meshtrio.rpc.stream import Stream
from meshtrio.rpc.tracer import (
    ORIGINAL,
    AttemptKind,
    AttemptTracer,
    ClientCallTracer,
    ClientTracer,
    MethodTracer,
    ServerCallTracer,
    ServerTracer,
)
from meshtrio.telemetry.metric_families import Labels, MetricFamily, MetricKind, MetricPoint
from meshtrio.telemetry.metrics.batched_histograms import (
    FLUSH_THRESHOLD,
    BatchedHistograms,
)
from meshtrio.telemetry.metrics.histogram import LATENCY_BUCKETS, SIZE_BUCKETS

MAX_MEASURED_METHODS = 1000
"""Pairs of target and method that a client tells apart."""
OTHER = "other"
_STATUS_NAMES = {status.value: status.name for status in purerpc.StatusCode}


@attrs.frozen
class _Instrument:
    """What is measured of a call, or of an attempt."""

    name: str
    unit: str
    bounds: tuple[float, ...]
    description: str


DURATION = _Instrument("duration", "s", LATENCY_BUCKETS, "The time that an {what} took.")
_SIZE_DESCRIPTION = (
    "total bytes (compressed but not encrypted) of all messages, without framing, of an"
)
_SENT_SIZE = _Instrument(
    "sent_total_compressed_message_size", "By", SIZE_BUCKETS, f"Sent: {_SIZE_DESCRIPTION} {{what}}."
)
_RECEIVED_SIZE = _Instrument(
    "rcvd_total_compressed_message_size",
    "By",
    SIZE_BUCKETS,
    f"Received: {_SIZE_DESCRIPTION} {{what}}.",
)
_ALL_INSTRUMENTS = (DURATION, _SENT_SIZE, _RECEIVED_SIZE)


class CallRecorder:
    """The calls of one method, or their attempts."""

    __slots__ = ("histograms", "labels", "pending", "started")

    def __init__(
        self, labels: Labels, instruments: Sequence[_Instrument] = _ALL_INSTRUMENTS
    ) -> None:
        self.labels = labels
        self.started = 0
        self.histograms = BatchedHistograms(*(figure.bounds for figure in instruments))
        self.pending = self.histograms.pending

    def record_end(self, code: int, seconds: float, stream: Stream | None) -> None:
        """One has ended; without a stream it never got that far."""
        sent, received = (0, 0) if stream is None else (stream.sent_size, stream.received_size)
        self.pending += (code, seconds, sent, received)
        if len(self.pending) >= FLUSH_THRESHOLD:
            self.histograms.flush()


# -- servers ---------------------------------------------------------------------------------


class _ServerCallTracer(ServerCallTracer):
    __slots__ = ("recorder", "started_at", "stream")

    started_at: float
    recorder: CallRecorder
    stream: Stream

    def call_ended(self, status: CallStatus) -> None:
        stream, waiting = self.stream, self.recorder.pending
        seconds = perf_counter() - self.started_at
        waiting += (status[0], seconds, stream.sent_size, stream.received_size)
        if len(waiting) >= FLUSH_THRESHOLD:
            self.recorder.histograms.flush()


class ServerMetrics(ServerTracer):
    """Counts the calls of a process's servers."""

    def __init__(self) -> None:
        self._methods: dict[str, CallRecorder] = {}

    def start_call(
        self, server_context: ServerContext, method: Method, stream: Stream
    ) -> ServerCallTracer:
        calls = self._methods.get(method.path) or self._add_method(method.path, method.path[1:])
        calls.started += 1
        call = _ServerCallTracer()
        call.recorder = calls
        call.stream = stream
        call.started_at = perf_counter()
        return call

    def call_rejected(self, headers: RequestHeaders, status: CallStatus) -> None:
        calls = self._methods.get(headers.path) or self._methods.get(OTHER)
        if calls is None:
            calls = self._add_method(OTHER, OTHER)
        calls.started += 1
        calls.record_end(status[0], 0.0, None)

    def _add_method(self, key: str, label: str) -> CallRecorder:
        calls = self._methods[key] = CallRecorder((("grpc.method", label),))
        return calls

    def collect(self) -> list[MetricFamily]:
        """What was counted until now."""
        methods = list(self._methods.values())
        started = [MetricPoint(calls.labels, calls.started) for calls in methods]
        about = "grpc.server.call"
        text = "The total number of RPCs that came, including those that have not completed."
        return [
            MetricFamily(f"{about}.started", MetricKind.COUNTER, "{call}", text, started),
            *histogram_families(about, "RPC", methods, _ALL_INSTRUMENTS),
        ]


# -- clients ---------------------------------------------------------------------------------


class _MethodTracer(MethodTracer):
    """The calls of one method of one target: those that callers make, and their attempts."""

    __slots__ = ("attempts", "calls")

    def __init__(self, labels: Labels) -> None:
        self.attempts = CallRecorder(labels)
        self.calls = CallRecorder(labels, [DURATION])

    def start_call(self) -> ClientCallTracer:
        call = _ClientCallTracer()
        call.method = self
        call.last_status = CANCELLED
        call.started_at = perf_counter()
        return call

    def flush(self) -> None:
        self.attempts.histograms.flush()
        self.calls.histograms.flush()


class _ClientCallTracer(ClientCallTracer, AttemptTracer):
    """A call, and the first of its attempts, which most of the time is the only one."""

    __slots__ = ("attempt_started_at", "last_status", "method", "started_at")

    attempt_started_at: float
    """Later than the call, as what its interceptors do is none of it."""
    started_at: float
    last_status: int
    """The status of its last attempt; CANCELLED for a call that is given up before there is one."""
    method: _MethodTracer

    def start_attempt(self, kind: AttemptKind, previous_attempts: int) -> AttemptTracer:
        self.method.attempts.started += 1
        if kind is not ORIGINAL:
            return _AttemptTracer(self)
        self.attempt_started_at = perf_counter()
        return self

    def attempt_ended(self, status: CallStatus, stream: Stream | None) -> None:
        self.last_status = code = status[0]
        seconds = perf_counter() - self.attempt_started_at
        waiting = self.method.attempts.pending
        if stream is None:
            waiting += (code, seconds, 0, 0)
        else:
            waiting += (code, seconds, stream.sent_size, stream.received_size)

    def call_ended(self, status: CallStatus | None) -> None:
        method = self.method
        waiting = method.calls.pending
        waiting += (
            self.last_status if status is None else status[0],
            perf_counter() - self.started_at,
        )
        if len(waiting) >= FLUSH_THRESHOLD:
            method.flush()


class _AttemptTracer(AttemptTracer):
    """One that is not the first of its call."""

    __slots__ = ("_call", "_started_at")

    def __init__(self, call: _ClientCallTracer) -> None:
        self._call = call
        self._started_at = perf_counter()

    def attempt_ended(self, status: CallStatus, stream: Stream | None) -> None:
        self._call.last_status = status[0]
        self._call.method.attempts.record_end(status[0], perf_counter() - self._started_at, stream)


M = TypeVar("M")


class MethodMap(Generic[M]):
    """What is kept for each method of each target that stubs are made for; their number is bounded,
    since a program may make them by names it was told."""

    def __init__(self, factory: Callable[[Labels], M]) -> None:
        self._factory = factory
        self._entries: dict[tuple[str, str], M] = {}

    def get_or_add(self, target: str, method: Method) -> M:
        key = (target, method.path[1:])
        if key not in self._entries and len(self._entries) >= MAX_MEASURED_METHODS:
            key = (OTHER, OTHER)
        found = self._entries.get(key)
        if found is None:
            labels = (("grpc.method", key[1]), ("grpc.target", key[0]))
            found = self._entries[key] = self._factory(labels)
        return found

    def __iter__(self) -> Iterator[M]:
        return iter(list(self._entries.values()))


class ClientMetrics(ClientTracer):
    """Counts the calls of a process's channels."""

    def __init__(self) -> None:
        self._methods = MethodMap(_MethodTracer)

    def trace_method(self, target: str, method: Method) -> MethodTracer:
        return self._methods.get_or_add(target, method)

    def collect(self) -> list[MetricFamily]:
        """What was counted until now."""
        methods = list(self._methods)
        about = "grpc.client.attempt"
        text = "The total number of RPC attempts started, including those that have not completed."
        started = [
            MetricPoint(called.attempts.labels, called.attempts.started) for called in methods
        ]
        attempts = [called.attempts for called in methods]
        calls = [called.calls for called in methods]
        return [
            MetricFamily(f"{about}.started", MetricKind.COUNTER, "{attempt}", text, started),
            *histogram_families(about, "RPC attempt", attempts, _ALL_INSTRUMENTS),
            *histogram_families("grpc.client.call", "RPC", calls, [DURATION]),
        ]


# -- telling ---------------------------------------------------------------------------------


def histogram_families(
    prefix: str, subject: str, recorders: Sequence[CallRecorder], instruments: Sequence[_Instrument]
) -> list[MetricFamily]:
    found = [
        (_add_status_label(calls.labels, code), histograms)
        for calls in recorders
        for code, histograms in calls.histograms.histograms_by_status().items()
    ]
    return [
        MetricFamily(
            f"{prefix}.{figure.name}",
            MetricKind.HISTOGRAM,
            figure.unit,
            figure.description.format(what=subject),
            [MetricPoint(labels, histograms[number].snapshot()) for labels, histograms in found],
        )
        for number, figure in enumerate(instruments)
    ]


def _add_status_label(labels: Labels, code: int) -> Labels:
    """In the order of the names, as OpenTelemetry's exporter has them."""
    return tuple(sorted((*labels, ("grpc.status", _STATUS_NAMES[code]))))
