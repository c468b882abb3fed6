"""Tracers of served calls, outgoing calls and attempts: sampled ones own a span, others do not.

Source: gRFC A72 for names, events and status; OpenTelemetry's semantic conventions for RPC for
attributes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import attrs
from opentelemetry import context as contexts
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import Span, SpanKind, Status
from opentelemetry.trace import StatusCode as SpanStatusCode

from meshtrio.grpc.status import CANCELLED, CallStatus, StatusCode
from meshtrio.rpc import tracer
from meshtrio.rpc.stream import Stream
from meshtrio.rpc.tracer_dispatch import MessageTracer
from meshtrio.telemetry.traces.propagation import encode_context_headers, process_span_context

_OK = Status(SpanStatusCode.OK)
_STATUS_NAMES = {status.value: status.name for status in StatusCode}


class TracerLike(Protocol):
    """The part of an OpenTelemetry tracer that is used."""

    def start_span(
        self, name: str, context: Context, kind: SpanKind, attributes: Mapping[str, Any], /
    ) -> Span: ...


def _end_span(span: Span, status: CallStatus) -> None:
    code, message = status
    span.set_attribute("rpc.grpc.status_code", code)
    if code:
        # gRFC A72 requires the name and the message; the format is that of grpc-java.
        name = _STATUS_NAMES.get(code, str(code))
        description = f"{name}: {message}" if message else name
        span.set_status(Status(SpanStatusCode.ERROR, description))
    else:
        span.set_status(_OK)
    span.end()


@attrs.define(eq=False)
class _MessageEvents(MessageTracer):
    """Adds an event to a span for each message."""

    _span: Span
    _sent_count: int = attrs.field(default=0, init=False)
    _received_count: int = attrs.field(default=0, init=False)

    def message_sent(self, message: bytes, wire_size: int) -> None:
        self._add_event("Outbound message", self._sent_count, len(message), wire_size)
        self._sent_count += 1

    def message_received(self, message: bytes, wire_size: int) -> None:
        self._add_event("Inbound message", self._received_count, len(message), wire_size)
        self._received_count += 1

    def _add_event(self, name: str, number: int, size: int, wire_size: int) -> None:
        attributes = {"sequence-number": number, "message-size": size}
        if wire_size != size:
            attributes["message-size-compressed"] = wire_size
        self._span.add_event(name, attributes)


# -- served calls ------------------------------------------------------------------------------


@attrs.define(eq=False)
class UnsampledServerCall(tracer.ServerCallTracer):
    """Makes the handler's context one that is not sampled; shared by calls of one context."""

    _context: Context

    def before_handler(self) -> None:
        contexts.attach(self._context)


@attrs.define(eq=False)
class SampledServerCall(_MessageEvents, tracer.ServerCallTracer):
    """Makes the call's span the current one in the handler, and ends it with the call."""

    _context: Context

    def before_handler(self) -> None:
        contexts.attach(self._context)

    def call_ended(self, status: CallStatus) -> None:
        _end_span(self._span, status)


# -- outgoing calls ----------------------------------------------------------------------------


class UnsampledClientCall(tracer.ClientCallTracer, tracer.AttemptTracer):
    """Sends a context that is not sampled; shared by calls of one context, and each its attempt."""

    __slots__ = ("extra_header_keys", "extra_headers")

    def __init__(self, context: Context) -> None:
        self.extra_headers, self.extra_header_keys = encode_context_headers(context)

    def start_attempt(
        self, kind: tracer.AttemptKind, previous_attempts: int
    ) -> tracer.AttemptTracer:
        return self


@attrs.define(eq=False)
class SampledClientCall(tracer.ClientCallTracer):
    """Owns the span of a call; its attempts have child spans."""

    span: Span
    _tracer: TracerLike
    _context: Context
    _name: str
    last_status: CallStatus = (CANCELLED, "the caller cancelled the call")
    """Status of the attempt that ended last, which a cancelled call ends with."""

    def start_attempt(
        self, kind: tracer.AttemptKind, previous_attempts: int
    ) -> tracer.AttemptTracer:
        attributes = {
            "previous-rpc-attempts": previous_attempts,
            "transparent-retry": kind is tracer.TRANSPARENT_RETRY,
        }
        name = "Attempt" + self._name.removeprefix("Sent")
        span = self._tracer.start_span(name, self._context, SpanKind.CLIENT, attributes)
        return _SampledAttempt(self, span, trace.set_span_in_context(span, self._context))

    def call_ended(self, status: CallStatus | None) -> None:
        _end_span(self.span, self.last_status if status is None else status)


class _SampledAttempt(_MessageEvents, tracer.AttemptTracer):
    """Owns the span of one attempt, whose context is sent to the server."""

    __slots__ = ("_call", "extra_header_keys", "extra_headers")

    wants_pick_events = True

    def __init__(self, call: SampledClientCall, span: Span, context: Context) -> None:
        super().__init__(span)
        self._call = call
        self.extra_headers, self.extra_header_keys = encode_context_headers(context)

    def endpoint_picked(self, address: str, stream: Stream, was_delayed: bool) -> None:
        stream.message_tracer = self
        if was_delayed:
            self._span.add_event("Delayed LB pick complete")
        self._span.set_attribute("network.peer.address", address)

    def attempt_ended(self, status: CallStatus, stream: Stream | None) -> None:
        self._call.last_status = status
        _end_span(self._span, status)

    def process_exited(self, launch_id: str) -> None:
        """Link the attempt and its call to the mesh's span of the process that exited."""
        context = process_span_context(launch_id)
        if context is not None:
            self._span.add_link(context)
            self._call.span.add_link(context)
