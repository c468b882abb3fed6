"""Spans of calls by gRFC A72, through OpenTelemetry's API (extra `tracing`).

    with Tracing(provider).observing():
        async with mesh.connect("plugin.echo") as channel: ...

A call is a span `Sent.pkg.Service.Method` with a child `Attempt.…` for each attempt, and where it
is served `Recv.…`. Trace context and baggage go along in metadata, by OpenTelemetry's global
propagators (W3C's by default); in a handler the span of its call is the current one, so that its
own calls and spans are below it.

A call that is not recorded costs next to nothing: all of those that begin here share one trace id,
since what bears it is never seen, and then their heads are the same bytes, which peers remember.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from random import getrandbits
from typing import Any, Protocol, TypeVar

import purerpc
from opentelemetry import context as contexts
from opentelemetry import propagate, trace
from opentelemetry.context import Context
from opentelemetry.trace import (
    NonRecordingSpan,
    Span,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
)

from meshtrio import __version__
from meshtrio.grpc.metadata import Metadata, encode_metadata
from meshtrio.grpc.status import CANCELLED, CallStatus
from meshtrio.http2.hpack import codec
from meshtrio.rpc.composite_tracer import use_tracers
from meshtrio.rpc.context import ServerContext, current_context
from meshtrio.rpc.message_tracer import MessageTracer
from meshtrio.rpc.method import Method
from meshtrio.rpc.server_load import LoadRecorder
from meshtrio.rpc.stream import Stream
from meshtrio.rpc.tracer import (
    AttemptKind,
    AttemptTracer,
    ClientCallTracer,
    ClientTracer,
    MethodTracer,
    PickedAttempt,
    ServerCallTracer,
    ServerTracer,
)
from meshtrio.telemetry.traces.process_span_context import process_span_context

_MAX_CACHED_CONTEXTS = 256
_OK = Status(StatusCode.OK)
_STATUS_NAMES = {status.value: status.name for status in purerpc.StatusCode}

ShouldSample = Callable[[], bool]
T = TypeVar("T")


class TracerLike(Protocol):
    """What is asked of a tracer."""

    def start_span(
        self, name: str, context: Context, kind: SpanKind, attributes: Mapping[str, Any], /
    ) -> Span: ...


class TracerProviderLike(Protocol):
    """What is asked of a provider of tracers; each of OpenTelemetry's is one."""

    def get_tracer(self, name: str, version: str, /) -> TracerLike: ...


class Tracing(ServerTracer, ClientTracer):
    """Makes spans of the calls of a process's servers and channels."""

    def __init__(
        self, provider: TracerProviderLike, should_sample: ShouldSample | None = None
    ) -> None:
        """`draw` decides for a call without a parent whether it is recorded, instead of the
        provider's sampler, which is still asked about those that are: see
        `sampling.RatioSampler`."""
        self._tracer = provider.get_tracer("meshtrio", __version__)
        self._should_sample = should_sample or _always_sample
        unrecorded = _unsampled_root_context()
        self._unsampled_server_call = _UnsampledServerCall(unrecorded)
        self._unsampled_client_call = _UnsampledClientCall(*_encode_trace_headers(unrecorded))
        self._context_cache: dict[Metadata, Context] = {}
        """What callers' metadata tells that has no parent."""
        self._unsampled_server_calls: dict[Metadata, _UnsampledServerCall] = {}
        """By the metadata of callers that do not record what they do."""
        self._root_context: Context | None = None
        """The context of what belongs to no trace."""
        self._last_unsampled: tuple[Context, _UnsampledClientCall] | None = None
        """The context of calls that are not recorded, by which one was made last."""

    @contextmanager
    def install(self) -> Iterator[None]:
        """Make spans of the calls of all channels and servers that are made in the block."""
        with use_tracers(client=self, server=self):
            yield

    # -- served calls ------------------------------------------------------------------------

    def start_call(
        self, server_context: ServerContext, method: Method, stream: Stream
    ) -> ServerCallTracer:
        quiet = self._unsampled_server_calls.get(server_context.custom_metadata)
        if quiet is not None:
            return quiet
        parent = self._parent_context(server_context.custom_metadata)
        caller = trace.get_current_span(parent).get_span_context()
        if not caller.is_valid:
            # What asks after health now and then begins no trace.
            if not LoadRecorder.is_counted(method.service) or not self._should_sample():
                return (
                    self._unsampled_server_call
                    if not parent
                    else _UnsampledServerCall(_unsampled_root_context(parent))
                )
        elif not caller.trace_flags.sampled:
            return _put_in_cache(
                self._unsampled_server_calls,
                server_context.custom_metadata,
                _UnsampledServerCall(parent),
            )
        span = self._tracer.start_span(
            _span_name("Recv", method), parent, SpanKind.SERVER, _attributes(method)
        )
        context = trace.set_span_in_context(span, parent)
        if not span.is_recording():
            return _UnsampledServerCall(context)
        return _SampledServerCall(span, context, stream)

    def _parent_context(self, metadata: Metadata) -> Context:
        """What a caller's metadata tells."""
        if not metadata:
            return _EMPTY_CONTEXT
        found = self._context_cache.get(metadata)
        if found is None:
            found = _extract_context(metadata, Context())
            if not trace.get_current_span(found).get_span_context().is_valid:
                _put_in_cache(self._context_cache, metadata, found)
        return found

    # -- calls that are made -----------------------------------------------------------------

    def trace_method(self, target: str, method: Method) -> MethodTracer:
        return _MethodTracer(self, target, method)

    def start_call_span(
        self, name: str, attributes: Mapping[str, Any], *, may_start_trace: bool
    ) -> ClientCallTracer:
        """A call is made by whoever runs now; `begins`: a trace, where there is none."""
        context = contexts.get_current()
        if context is self._root_context and current_context.get() is None:
            if not may_start_trace or not self._should_sample():
                return self._unsampled_client_call
        elif self._last_unsampled is not None and self._last_unsampled[0] is context:
            return self._last_unsampled[1]
        else:
            context = _with_served_call_as_parent(context)
            quiet = self._unsampled_call_in(context, may_start_trace=may_start_trace)
            if quiet is not None:
                return quiet
        span = self._tracer.start_span(name, context, SpanKind.CLIENT, attributes)
        context = trace.set_span_in_context(span, context)
        if not span.is_recording():
            return _UnsampledClientCall(*_encode_trace_headers(context))
        return _SampledClientCall(self, span, context, name)

    def _unsampled_call_in(
        self, context: Context, *, may_start_trace: bool
    ) -> ClientCallTracer | None:
        """A call that is made in a context, if it is not to be recorded."""
        parent = trace.get_current_span(context).get_span_context()
        if not parent.is_valid:
            if not context:
                self._root_context = context
            if may_start_trace and self._should_sample():
                return None
            return (
                self._unsampled_client_call
                if not context
                else _UnsampledClientCall(*_encode_trace_headers(_unsampled_root_context(context)))
            )
        if parent.trace_flags.sampled:
            return None
        quiet = _UnsampledClientCall(*_encode_trace_headers(context))
        self._last_unsampled = (context, quiet)
        return quiet

    def start_attempt_span(
        self, call: _SampledClientCall, kind: AttemptKind, previous: int
    ) -> _SampledAttempt:
        attributes = {
            "previous-rpc-attempts": previous,
            "transparent-retry": kind is AttemptKind.TRANSPARENT_RETRY,
        }
        name = "Attempt" + call.name.removeprefix("Sent")
        span = self._tracer.start_span(name, call.context, SpanKind.CLIENT, attributes)
        return _SampledAttempt(call, span, trace.set_span_in_context(span, call.context))


_EMPTY_CONTEXT = Context()


def _always_sample() -> bool:
    return True


def _put_in_cache(cache: dict[Metadata, T], metadata: Metadata, value: T) -> T:
    if len(cache) >= _MAX_CACHED_CONTEXTS:
        cache.clear()
    cache[metadata] = value
    return value


def _extract_context(metadata: Metadata, context: Context) -> Context:
    """A context, and what metadata tells."""
    carrier: dict[str, str] = {}
    for key, value in metadata:
        if isinstance(value, str):
            carrier[key] = f"{carrier[key]},{value}" if key in carrier else value
    return propagate.extract(carrier, context)


def _with_served_call_as_parent(context: Context) -> Context:
    """Of a call that the handler of a server makes which is not traced, the parent is who called
    that, as it would be if the call were not traced either."""
    call = current_context.get()
    if call is None or trace.get_current_span(context).get_span_context().is_valid:
        return context
    return _extract_context(call.propagated_metadata, context)


def _unsampled_root_context(context: Context = _EMPTY_CONTEXT) -> Context:
    """A context whose span is not recorded, and begins a trace that nobody sees."""
    quiet = SpanContext(getrandbits(128) or 1, getrandbits(64) or 1, is_remote=False)
    return trace.set_span_in_context(NonRecordingSpan(quiet), context)


def _encode_trace_headers(context: Context) -> tuple[bytes, frozenset[str]]:
    """The header fields that carry a context, encoded, and their keys.

    What a propagator gives that gRPC cannot send is left out: tracing must not make calls fail.
    """
    carrier: dict[str, str] = {}
    propagate.inject(carrier, context)
    fields: list[tuple[bytes, bytes]] = []
    for key, value in carrier.items():
        with suppress(ValueError, TypeError):
            fields += encode_metadata(((key.lower(), value),))
    return codec.encode(fields), frozenset(name.decode() for name, _ in fields)


def _span_name(kind: str, method: Method) -> str:
    return f"{kind}.{method.service}.{method.name}"


def _attributes(method: Method) -> dict[str, str]:
    """By OpenTelemetry's semantic conventions for RPC; gRFC A72 asks for none."""
    return {"rpc.system": "grpc", "rpc.service": method.service, "rpc.method": method.name}


def _end_span(span: Span, status: CallStatus) -> None:
    code, message = status
    span.set_attribute("rpc.grpc.status_code", code)
    span.set_status(Status(StatusCode.ERROR, _status_description(code, message)) if code else _OK)
    span.end()


def _status_description(code: int, message: str) -> str:
    """A failure, as grpc-java and gRPC's C core write it: by gRFC A72 the code is in it."""
    name = _STATUS_NAMES.get(code, str(code))
    return f"{name}: {message}" if message else name


# -- those that are not recorded -------------------------------------------------------------


class _UnsampledServerCall(ServerCallTracer):
    __slots__ = ("_context",)

    def __init__(self, context: Context) -> None:
        self._context = context

    def before_handler(self) -> None:
        """What the handler does is not recorded either."""
        contexts.attach(self._context)


class _UnsampledClientCall(ClientCallTracer, AttemptTracer):
    __slots__ = ("extra_header_keys", "extra_headers")

    def __init__(self, block: bytes, keys: frozenset[str]) -> None:
        self.extra_headers, self.extra_header_keys = block, keys

    def start_attempt(self, kind: AttemptKind, previous_attempts: int) -> AttemptTracer:
        return self


# -- those that are --------------------------------------------------------------------------


class _MessageEvents(MessageTracer):
    """Makes an event of each message."""

    __slots__ = ("_received_count", "_sent_count", "_span")

    def __init__(self, span: Span) -> None:
        self._span = span
        self._sent_count = self._received_count = 0

    def message_sent(self, message: bytes, wire_size: int) -> None:
        self._add_message_event("Outbound message", self._sent_count, len(message), wire_size)
        self._sent_count += 1

    def message_received(self, message: bytes, wire_size: int) -> None:
        self._add_message_event("Inbound message", self._received_count, len(message), wire_size)
        self._received_count += 1

    def _add_message_event(self, name: str, number: int, size: int, wire_size: int) -> None:
        attributes = {"sequence-number": number, "message-size": size}
        if wire_size != size:
            attributes["message-size-compressed"] = wire_size
        self._span.add_event(name, attributes)


class _SampledServerCall(_MessageEvents, ServerCallTracer):
    __slots__ = ("_context",)

    def __init__(self, span: Span, context: Context, stream: Stream) -> None:
        super().__init__(span)
        self._context = context
        stream.message_tracer = self

    def before_handler(self) -> None:
        contexts.attach(self._context)

    def call_ended(self, status: CallStatus) -> None:
        _end_span(self._span, status)


class _SampledAttempt(_MessageEvents, AttemptTracer):
    __slots__ = ("_call", "extra_header_keys", "extra_headers")

    wants_pick_events = True

    def __init__(self, call: _SampledClientCall, span: Span, context: Context) -> None:
        super().__init__(span)
        self._call = call
        self.extra_headers, self.extra_header_keys = _encode_trace_headers(context)

    def endpoint_picked(self, attempt: PickedAttempt, *, was_delayed: bool) -> None:
        attempt.stream.message_tracer = self
        if was_delayed:
            self._span.add_event("Delayed LB pick complete")
        self._span.set_attribute("network.peer.address", attempt.address)

    def attempt_ended(self, status: CallStatus, stream: Stream | None) -> None:
        self._call.last_status = status
        _end_span(self._span, status)

    def process_exited(self, launch_id: str) -> None:
        """The plugin's process ended during it: linked to the span that the mesh has of that."""
        context = process_span_context(launch_id)
        if context is not None:
            self._span.add_link(context)
            self._call.add_link(context)


class _SampledClientCall(ClientCallTracer):
    __slots__ = ("_span", "_tracing", "context", "last_status", "name")

    def __init__(self, tracing: Tracing, span: Span, context: Context, name: str) -> None:
        self._tracing = tracing
        self._span = span
        self.context = context
        self.name = name
        self.last_status: CallStatus = (CANCELLED, "the caller cancelled the call")

    def start_attempt(self, kind: AttemptKind, previous_attempts: int) -> AttemptTracer:
        return self._tracing.start_attempt_span(self, kind, previous_attempts)

    def add_link(self, context: SpanContext) -> None:
        self._span.add_link(context)

    def call_ended(self, status: CallStatus | None) -> None:
        _end_span(self._span, self.last_status if status is None else status)


class _MethodTracer(MethodTracer):
    def __init__(self, tracing: Tracing, target: str, method: Method) -> None:
        self._tracing = tracing
        self._name = _span_name("Sent", method)
        self._attributes = {**_attributes(method), "server.address": target}
        # What is asked after health, or of the mesh for as long as a process runs, begins none.
        self._may_start_trace = LoadRecorder.is_counted(method.service)

    def start_call(self) -> ClientCallTracer:
        return self._tracing.start_call_span(
            self._name, self._attributes, may_start_trace=self._may_start_trace
        )
