"""Call spans: OpenTelemetry's Span interface, in a third of the time that its SDK takes.

The SDK locks, validates and copies all that a span records. A call records little, which is known
to be valid and is kept as it is. What a handler adds goes into OpenTelemetry's BoundedAttributes
and BoundedList, which validate it and limit its size. A span that ends becomes a ReadableSpan.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Mapping
from time import time_ns
from typing import Any

import attrs
from opentelemetry import trace
from opentelemetry.attributes import BoundedAttributes
from opentelemetry.context import Context
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event, ReadableSpan, SpanLimits
from opentelemetry.sdk.trace.id_generator import IdGenerator
from opentelemetry.sdk.util import BoundedList
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import Span, SpanContext, SpanKind, Status, StatusCode, TraceFlags

_KEY_TYPES = {str}
_VALUE_TYPES = {str, bool, int, float}
MAX_PLAIN_ENTRIES = 12
"""Maximum number of attributes, and of events, that are kept without validation."""
_SAMPLED_FLAGS = TraceFlags(TraceFlags.SAMPLED)
_UNSET = Status(StatusCode.UNSET)

Attributes = Mapping[str, Any]


@attrs.frozen
class CallSpanTracer:
    """Starts call spans; implements `TracerLike`, and `TracerProviderLike` by copies of itself.

    Every span is recorded, except for children of spans that are not sampled.
    """

    resource: Resource
    limits: SpanLimits
    """Limits on numbers; those on lengths are left to the SDK's spans (see `pipeline`)."""
    id_generator: IdGenerator
    on_end: Callable[[ReadableSpan], None]
    """Called with each span that ends, in the thread that ends it."""
    scope: InstrumentationScope | None = None

    def get_tracer(self, name: str, version: str) -> CallSpanTracer:
        return attrs.evolve(self, scope=InstrumentationScope(name, version))

    def start_span(
        self, name: str, context: Context, kind: SpanKind, attributes: Attributes
    ) -> Span:
        parent: SpanContext | None = trace.get_current_span(context).get_span_context()
        assert parent is not None
        ids = self.id_generator
        if not parent.is_valid:
            parent, trace_id = None, ids.generate_trace_id()
            own = SpanContext(trace_id, ids.generate_span_id(), False, _SAMPLED_FLAGS)
        elif parent.trace_flags & TraceFlags.SAMPLED:
            trace_id, flags, state = parent.trace_id, parent.trace_flags, parent.trace_state
            own = SpanContext(trace_id, ids.generate_span_id(), False, flags, state)
        else:
            return trace.NonRecordingSpan(parent)
        kept = _copy_attributes(attributes, self.limits.max_span_attributes)
        return CallSpan(self, name, own, parent, kind, kept)


@attrs.define(eq=False, slots=False)
class CallSpan(Span):
    """A span that is recorded."""

    _tracer: CallSpanTracer
    _name: str
    _context: SpanContext
    _parent: SpanContext | None
    _kind: SpanKind
    _attributes: Any
    _events: list[Event] | BoundedList[Event] = attrs.field(factory=list)
    _links: BoundedList[trace.Link] | None = None
    _status: Status = _UNSET
    _is_ended: bool = False
    _start_time: int = attrs.field(factory=time_ns)

    def get_span_context(self) -> SpanContext:
        return self._context

    def is_recording(self) -> bool:
        return not self._is_ended

    def set_attributes(self, attributes: Attributes) -> None:
        for key, value in attributes.items():
            self.set_attribute(key, value)

    def set_attribute(self, key: str, value: Any) -> None:
        if self._is_ended:
            return
        attributes = self._attributes
        is_full = len(attributes) >= MAX_PLAIN_ENTRIES
        if type(attributes) is dict and (is_full or not _are_plain({key: value})):
            limit = self._tracer.limits.max_span_attributes
            attributes = BoundedAttributes(limit, attributes, immutable=False)
            self._attributes = attributes
        attributes.pop(key, None)  # The attribute set last is the last to be dropped.
        attributes[key] = value

    def add_event(
        self, name: str, attributes: Attributes | None = None, timestamp: int | None = None
    ) -> None:
        if self._is_ended:
            return
        limits = self._tracer.limits
        if type(self._events) is list and len(self._events) >= MAX_PLAIN_ENTRIES:
            self._events = BoundedList.from_seq(limits.max_events, self._events)
        kept = _copy_attributes(attributes or {}, limits.max_event_attributes)
        self._events.append(Event(name, kept, timestamp))

    def add_link(self, context: SpanContext, attributes: Attributes | None = None) -> None:
        if self._is_ended or not (context.is_valid or attributes or context.trace_state):
            return
        limits = self._tracer.limits
        if self._links is None:
            self._links = BoundedList(limits.max_links)
        kept = BoundedAttributes(limits.max_link_attributes, attributes)
        self._links.append(trace.Link(context, kept))

    def update_name(self, name: str) -> None:
        if not self._is_ended:
            self._name = name

    def set_status(self, status: Status | StatusCode, description: str | None = None) -> None:
        """Set the status. OK is final, and UNSET is ignored, as OpenTelemetry specifies."""
        if isinstance(status, StatusCode):
            status = Status(status, description)
        final = self._is_ended or self._status.status_code is StatusCode.OK
        if not final and status.status_code is not StatusCode.UNSET:
            self._status = status

    def record_exception(
        self,
        exception: BaseException,
        attributes: Attributes | None = None,
        timestamp: int | None = None,
        escaped: bool = False,
    ) -> None:
        """Add an event by OpenTelemetry's semantic conventions for exceptions."""
        kind = type(exception)
        module = "" if kind.__module__ == "builtins" else f"{kind.__module__}."
        described = {
            "exception.type": module + kind.__qualname__,
            "exception.message": str(exception),
            "exception.stacktrace": "".join(traceback.format_exception(exception)),
            "exception.escaped": str(escaped),
        }
        self.add_event("exception", {**described, **(attributes or {})}, timestamp)

    def end(self, end_time: int | None = None) -> None:
        if self._is_ended:
            return
        self._is_ended = True
        tracer = self._tracer
        span = ReadableSpan(
            name=self._name,
            context=self._context,
            parent=self._parent,
            resource=tracer.resource,
            attributes=self._attributes,
            events=self._events,
            links=self._links or (),
            kind=self._kind,
            status=self._status,
            start_time=self._start_time,
            end_time=end_time or time_ns(),
            instrumentation_scope=tracer.scope,
        )
        tracer.on_end(span)


def _copy_attributes(attributes: Attributes, max_count: int | None) -> Any:
    """Copy attributes; into BoundedAttributes unless they are few and of plain types."""
    if len(attributes) < MAX_PLAIN_ENTRIES and _are_plain(attributes):
        return dict(attributes)
    return BoundedAttributes(max_count, attributes, immutable=False)


def _are_plain(attributes: Attributes) -> bool:
    """Return whether BoundedAttributes would keep all attributes as they are."""
    return (
        _VALUE_TYPES.issuperset(map(type, attributes.values()))
        and _KEY_TYPES.issuperset(map(type, attributes))
        and "" not in attributes
    )
