"""Tracers of outgoing calls and their attempts, sampled and not."""

from __future__ import annotations

from typing import TYPE_CHECKING

from opentelemetry.context import Context
from opentelemetry.trace import Span, SpanContext

from meshtrio.grpc.status import CANCELLED, CallStatus
from meshtrio.rpc.stream import Stream
from meshtrio.rpc.tracer import AttemptKind, AttemptTracer, ClientCallTracer, PickedAttempt
from meshtrio.telemetry.traces.process_span_context import process_span_context
from meshtrio.telemetry.traces.propagation import encode_context_headers
from meshtrio.telemetry.traces.span_conventions import MessageEvents, end_span

if TYPE_CHECKING:
    from collections.abc import Callable

    StartAttemptSpan = Callable[["SampledClientCall", AttemptKind, int], "SampledAttempt"]


class UnsampledClientCall(ClientCallTracer, AttemptTracer):
    """Sends a context that is not sampled; shared by calls of one context, and each its attempt."""

    __slots__ = ("extra_header_keys", "extra_headers")

    def __init__(self, context: Context) -> None:
        self.extra_headers, self.extra_header_keys = encode_context_headers(context)

    def start_attempt(self, kind: AttemptKind, previous_attempts: int) -> AttemptTracer:
        return self


class SampledClientCall(ClientCallTracer):
    """Owns the span of a call; its attempts have child spans."""

    __slots__ = ("_span", "_start_attempt_span", "context", "last_status", "name")

    def __init__(
        self, start_attempt_span: StartAttemptSpan, span: Span, context: Context, name: str
    ) -> None:
        self._start_attempt_span = start_attempt_span
        self._span = span
        self.context = context
        self.name = name
        self.last_status: CallStatus = (CANCELLED, "the caller gave the call up")
        """Status of the attempt that ended last, which a cancelled call ends with."""

    def start_attempt(self, kind: AttemptKind, previous_attempts: int) -> AttemptTracer:
        return self._start_attempt_span(self, kind, previous_attempts)

    def add_link(self, context: SpanContext) -> None:
        self._span.add_link(context)

    def call_ended(self, status: CallStatus | None) -> None:
        end_span(self._span, self.last_status if status is None else status)


class SampledAttempt(MessageEvents, AttemptTracer):
    """Owns the span of one attempt, whose context is sent to the server."""

    __slots__ = ("_call", "extra_header_keys", "extra_headers")

    wants_pick_events = True

    def __init__(self, call: SampledClientCall, span: Span, context: Context) -> None:
        super().__init__(span)
        self._call = call
        self.extra_headers, self.extra_header_keys = encode_context_headers(context)

    def endpoint_picked(self, attempt: PickedAttempt, *, was_delayed: bool) -> None:
        attempt.stream.message_tracer = self
        if was_delayed:
            self._span.add_event("Delayed LB pick complete")
        self._span.set_attribute("network.peer.address", attempt.address)

    def attempt_ended(self, status: CallStatus, stream: Stream | None) -> None:
        self._call.last_status = status
        end_span(self._span, status)

    def process_exited(self, launch_id: str) -> None:
        """Link the attempt and its call to the mesh's span of the process that exited."""
        context = process_span_context(launch_id)
        if context is not None:
            self._span.add_link(context)
            self._call.add_link(context)
