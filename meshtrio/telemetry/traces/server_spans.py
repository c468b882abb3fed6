"""Tracers of served calls: one that records a span, and one for calls that are not sampled."""

from __future__ import annotations

from opentelemetry import context as contexts
from opentelemetry.context import Context
from opentelemetry.trace import Span

from meshtrio.grpc.status import CallStatus
from meshtrio.rpc.stream import Stream
from meshtrio.rpc.tracer import ServerCallTracer
from meshtrio.telemetry.traces.span_conventions import MessageEvents, end_span


class UnsampledServerCall(ServerCallTracer):
    """Makes the handler's context one that is not sampled; shared by calls of one context."""

    __slots__ = ("_context",)

    def __init__(self, context: Context) -> None:
        self._context = context

    def before_handler(self) -> None:
        contexts.attach(self._context)


class SampledServerCall(MessageEvents, ServerCallTracer):
    """Makes the call's span the current one in the handler, and ends it with the call."""

    __slots__ = ("_context",)

    def __init__(self, span: Span, context: Context, stream: Stream) -> None:
        super().__init__(span)
        self._context = context
        stream.message_tracer = self

    def before_handler(self) -> None:
        contexts.attach(self._context)

    def call_ended(self, status: CallStatus) -> None:
        end_span(self._span, status)
