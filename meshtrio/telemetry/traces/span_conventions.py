"""Names, attributes, events and status of call spans.

Source: gRFC A72, and OpenTelemetry's semantic conventions for RPC.
"""

from __future__ import annotations

from opentelemetry.trace import Span, Status
from opentelemetry.trace import StatusCode as SpanStatusCode

from meshtrio.grpc.status import CallStatus, StatusCode
from meshtrio.rpc.method import Method
from meshtrio.rpc.tracer_dispatch import MessageTracer

_OK = Status(SpanStatusCode.OK)
_STATUS_NAMES = {status.value: status.name for status in StatusCode}


def span_name(kind: str, method: Method) -> str:
    """Return the name of a span of a method; `kind` is Sent, Attempt or Recv."""
    return f"{kind}.{method.service}.{method.name}"


def span_attributes(method: Method) -> dict[str, str]:
    """Return the attributes of OpenTelemetry's conventions; gRFC A72 requires none."""
    return {"rpc.system": "grpc", "rpc.service": method.service, "rpc.method": method.name}


def end_span(span: Span, status: CallStatus) -> None:
    """Set the status of a span and end it."""
    code, message = status
    span.set_attribute("rpc.grpc.status_code", code)
    span.set_status(
        Status(SpanStatusCode.ERROR, _status_description(code, message)) if code else _OK
    )
    span.end()


def _status_description(code: int, message: str) -> str:
    """Return the code's name and the message, as gRFC A72 requires and grpc-java formats them."""
    name = _STATUS_NAMES.get(code, str(code))
    return f"{name}: {message}" if message else name


class MessageEvents(MessageTracer):
    """Adds an event to a span for each message."""

    __slots__ = ("_received_count", "_sent_count", "_span")

    def __init__(self, span: Span) -> None:
        self._span = span
        self._sent_count = self._received_count = 0

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
