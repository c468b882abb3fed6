"""Metrics of calls, with the names, units, labels and buckets of gRFC A66.

The work per call is kept to a minimum: tracers have no `__init__`, which would take as long as all
the rest, and call as few functions as possible.

Labels are bounded whatever peers send. A server labels methods that it has handlers for, and all
others "other"; a client labels up to `MAX_MEASURED_METHODS` pairs of target and method, and all
others "other"; the gateway labels up to `MAX_MEASURED_SERVICES` services, and all others, and calls
to none, "other". A status that gRPC does not define is UNKNOWN.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from time import perf_counter
from typing import Generic, TypeVar

import attrs

from meshtrio.grpc.headers import RequestHeaders
from meshtrio.grpc.status import CANCELLED, CallStatus
from meshtrio.rpc import tracer
from meshtrio.rpc.context import ServerContext
from meshtrio.rpc.method import Method
from meshtrio.rpc.stream import Stream
from meshtrio.rpc.tracer import ORIGINAL, AttemptKind
from meshtrio.telemetry.metric_families import Labels, MetricFamily
from meshtrio.telemetry.metrics.call_recorder import (
    DURATION,
    FLUSH_THRESHOLD,
    CallRecorder,
    call_families,
    histogram_families,
)

MAX_MEASURED_METHODS = 1000
"""Maximum number of pairs of target and method that a client labels."""
MAX_MEASURED_SERVICES = 1000
"""Maximum number of services that the gateway labels."""
OTHER = "other"
"""The label of methods and targets beyond the limits (gRFC A66)."""


# -- servers ---------------------------------------------------------------------------------


class _ServerCallTracer(tracer.ServerCallTracer):
    """Records the end of a served call."""

    __slots__ = ("recorder", "started_at", "stream")

    started_at: float
    recorder: CallRecorder
    stream: Stream

    def call_ended(self, status: CallStatus) -> None:
        stream, pending = self.stream, self.recorder.pending
        seconds = perf_counter() - self.started_at
        pending += (status[0], seconds, stream.sent_size, stream.received_size)
        if len(pending) >= FLUSH_THRESHOLD:
            self.recorder.flush()


class ServerMetrics(tracer.ServerTracer):
    """Measures the calls of a process's servers."""

    def __init__(self) -> None:
        self._methods: dict[str, CallRecorder] = {}

    def start_call(
        self, server_context: ServerContext, method: Method, stream: Stream
    ) -> tracer.ServerCallTracer:
        calls = self._methods.get(method.path) or self._add_method(method.path)
        calls.started += 1
        call = _ServerCallTracer()
        call.recorder = calls
        call.stream = stream
        call.started_at = perf_counter()
        return call

    def call_rejected(self, headers: RequestHeaders, status: CallStatus) -> None:
        find = self._methods.get
        calls = find(headers.path) or find(OTHER) or self._add_method(OTHER)
        calls.started += 1
        calls.record(status[0], 0.0, 0, 0)

    def _add_method(self, path: str) -> CallRecorder:
        calls = self._methods[path] = CallRecorder((("grpc.method", path.removeprefix("/")),))
        return calls

    def collect(self) -> list[MetricFamily]:
        """Return the families, as of now."""
        methods, text = list(self._methods.values()), "The total number of RPCs that came"
        return call_families("grpc.server.call", "{call}", text, "RPC", methods)


# -- clients ---------------------------------------------------------------------------------


class _MethodTracer:
    """Measures the calls of one method of one target, and their attempts."""

    __slots__ = ("attempts", "calls")

    def __init__(self, labels: Labels) -> None:
        self.attempts = CallRecorder(labels)
        self.calls = CallRecorder(labels, [DURATION])

    def start_call(self) -> tracer.ClientCallTracer:
        call = _ClientCallTracer()
        call.method = self
        call.last_status = CANCELLED
        call.started_at = perf_counter()
        return call


class _ClientCallTracer(tracer.ClientCallTracer, tracer.AttemptTracer):
    """Traces a call and its first attempt, which is usually the only one."""

    __slots__ = ("attempt_started_at", "last_status", "method", "started_at")

    attempt_started_at: float
    """When the first attempt started; interceptors run between the call's start and this."""
    started_at: float
    last_status: int
    """Status of the last attempt that ended; CANCELLED before there is one."""
    method: _MethodTracer

    def start_attempt(self, kind: AttemptKind, previous_attempts: int) -> tracer.AttemptTracer:
        self.method.attempts.started += 1
        if kind is not ORIGINAL:
            return _AttemptTracer(self)
        self.attempt_started_at = perf_counter()
        return self

    def attempt_ended(self, status: CallStatus, stream: Stream | None) -> None:
        self.last_status = code = status[0]
        seconds = perf_counter() - self.attempt_started_at
        pending = self.method.attempts.pending
        if stream is None:
            pending += (code, seconds, 0, 0)
        else:
            pending += (code, seconds, stream.sent_size, stream.received_size)

    def call_ended(self, status: CallStatus | None) -> None:
        method = self.method
        pending = method.calls.pending
        pending += (
            self.last_status if status is None else status[0],
            perf_counter() - self.started_at,
        )
        if len(pending) >= FLUSH_THRESHOLD:
            method.attempts.flush()
            method.calls.flush()


@attrs.define(eq=False)
class _AttemptTracer(tracer.AttemptTracer):
    """Traces an attempt that is not the first of its call."""

    _call: _ClientCallTracer
    _started_at: float = attrs.field(factory=perf_counter)

    def attempt_ended(self, status: CallStatus, stream: Stream | None) -> None:
        call, seconds = self._call, perf_counter() - self._started_at
        call.last_status = status[0]
        sizes = (0, 0) if stream is None else (stream.sent_size, stream.received_size)
        call.method.attempts.record(status[0], seconds, *sizes)


M = TypeVar("M")


class MethodMap(Generic[M]):
    """Maps targets and methods to values; pairs beyond the limit share one value, "other".

    Without the limit a program that calls methods by names from its input would never stop
    adding entries.
    """

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


class ClientMetrics(tracer.ClientTracer):
    """Measures the calls of a process's channels, and their attempts."""

    def __init__(self) -> None:
        self._methods = MethodMap(_MethodTracer)

    def trace_method(self, target: str, method: Method) -> tracer.StartCall:
        return self._methods.get_or_add(target, method).start_call

    def collect(self) -> list[MetricFamily]:
        """Return the families, as of now."""
        attempts = [method.attempts for method in self._methods]
        calls = [method.calls for method in self._methods]
        name, text = "grpc.client.attempt", "The total number of RPC attempts started"
        return [
            *call_families(name, "{attempt}", text, "RPC attempt", attempts),
            *histogram_families("grpc.client.call", "RPC", calls, [DURATION]),
        ]


# -- the gateway -----------------------------------------------------------------------------


class GatewayMetrics:
    """Measures proxied calls by the service that they are sent to.

    For plugins that measure nothing themselves these are the only metrics.
    """

    def __init__(self) -> None:
        self._services: dict[str | None, CallRecorder] = {}
        """By service; None for all others."""

    def start_call(self, service: str | None, path: str = "") -> CallRecorder:
        """Count the start of a call; `service` is None if unknown, and `path` is not measured.

        Returns the recorder of its end: of its status, and its duration in seconds.
        """
        calls = self._services.get(service or None) or self._add_service(service)
        calls.started += 1
        return calls

    def _add_service(self, service: str | None) -> CallRecorder:
        full = len(self._services) >= MAX_MEASURED_SERVICES
        key = None if full or not service else service
        if key not in self._services:
            target = OTHER if key is None else f"mesh:///{key}"
            self._services[key] = CallRecorder((("grpc.target", target),), [DURATION])
        return self._services[key]

    def collect(self) -> list[MetricFamily]:
        """Return the families, as of now."""
        services = list(self._services.values())
        text, subject = "The calls that were passed on", "RPC that was passed on"
        return call_families("mesh.gateway.call", "{call}", text, subject, services, [DURATION])
