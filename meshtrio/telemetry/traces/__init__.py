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
from meshtrio.rpc.current import current
from meshtrio.rpc.meter import Meter
from meshtrio.rpc.observe import (
    CANCELLED,
    AttemptKind,
    AttemptWatch,
    CallWatch,
    ClientObserver,
    MessageWatch,
    MethodObserver,
    Outcome,
    Placed,
    ServerObserver,
    ServerWatch,
)
from meshtrio.rpc.observers import observing
from meshtrio.rpc.seam import Method, Request
from meshtrio.rpc.stream import Stream
from meshtrio.telemetry.traces.lives import context_of_life
from meshtrio.wire import hpack
from meshtrio.wire.grpc import Metadata, encode_metadata

_MOST_REMEMBERED = 256
_OK = Status(StatusCode.OK)
_STATUSES = {status.value: status.name for status in purerpc.StatusCode}

Draw = Callable[[], bool]
T = TypeVar("T")


class StartsSpans(Protocol):
    """What is asked of a tracer."""

    def start_span(
        self, name: str, context: Context, kind: SpanKind, attributes: Mapping[str, Any], /
    ) -> Span: ...


class Provider(Protocol):
    """What is asked of a provider of tracers; each of OpenTelemetry's is one."""

    def get_tracer(self, name: str, version: str, /) -> StartsSpans: ...


class Tracing(ServerObserver, ClientObserver):
    """Makes spans of the calls of a process's servers and channels."""

    def __init__(self, provider: Provider, draw: Draw | None = None) -> None:
        """`draw` decides for a call without a parent whether it is recorded, instead of the
        provider's sampler, which is still asked about those that are: see `sampling.Lot`."""
        self._tracer = provider.get_tracer("meshtrio", __version__)
        self._draw = draw or _always
        unrecorded = _quiet_root()
        self._quiet_served = _QuietServed(unrecorded)
        self._quiet_call = _QuietCall(*_fields(unrecorded))
        self._heard: dict[Metadata, Context] = {}
        """What callers' metadata tells that has no parent."""
        self._unrecorded: dict[Metadata, _QuietServed] = {}
        """By the metadata of callers that do not record what they do."""
        self._outside: Context | None = None
        """The context of what belongs to no trace."""
        self._last: tuple[Context, _QuietCall] | None = None
        """The context of calls that are not recorded, by which one was made last."""

    @contextmanager
    def observing(self) -> Iterator[None]:
        """Make spans of the calls of all channels and servers that are made in the block."""
        with observing(client=self, server=self):
            yield

    # -- served calls ------------------------------------------------------------------------

    def begin(self, request: Request, method: Method, stream: Stream) -> ServerWatch:
        quiet = self._unrecorded.get(request.custom_metadata)
        if quiet is not None:
            return quiet
        parent = self._context_of(request.custom_metadata)
        caller = trace.get_current_span(parent).get_span_context()
        if not caller.is_valid:
            # What asks after health now and then begins no trace.
            if not Meter.counts(method.service) or not self._draw():
                return self._quiet_served if not parent else _QuietServed(_quiet_root(parent))
        elif not caller.trace_flags.sampled:
            return _remembered(self._unrecorded, request.custom_metadata, _QuietServed(parent))
        span = self._tracer.start_span(
            _span_name("Recv", method), parent, SpanKind.SERVER, _attributes(method)
        )
        context = trace.set_span_in_context(span, parent)
        if not span.is_recording():
            return _QuietServed(context)
        return _Served(span, context, stream)

    def _context_of(self, metadata: Metadata) -> Context:
        """What a caller's metadata tells."""
        if not metadata:
            return _NOTHING
        found = self._heard.get(metadata)
        if found is None:
            found = _extracted(metadata, Context())
            if not trace.get_current_span(found).get_span_context().is_valid:
                _remembered(self._heard, metadata, found)
        return found

    # -- calls that are made -----------------------------------------------------------------

    def method(self, target: str, method: Method) -> MethodObserver:
        return _TracedMethod(self, target, method)

    def begin_call(self, name: str, attributes: Mapping[str, Any], *, begins: bool) -> CallWatch:
        """A call is made by whoever runs now; `begins`: a trace, where there is none."""
        context = contexts.get_current()
        if context is self._outside and current.get() is None:
            if not begins or not self._draw():
                return self._quiet_call
        elif self._last is not None and self._last[0] is context:
            return self._last[1]
        else:
            context = _below_what_is_served(context)
            quiet = self._quiet_in(context, begins=begins)
            if quiet is not None:
                return quiet
        span = self._tracer.start_span(name, context, SpanKind.CLIENT, attributes)
        context = trace.set_span_in_context(span, context)
        if not span.is_recording():
            return _QuietCall(*_fields(context))
        return _Call(self, span, context, name)

    def _quiet_in(self, context: Context, *, begins: bool) -> CallWatch | None:
        """A call that is made in a context, if it is not to be recorded."""
        parent = trace.get_current_span(context).get_span_context()
        if not parent.is_valid:
            if not context:
                self._outside = context
            if begins and self._draw():
                return None
            return self._quiet_call if not context else _QuietCall(*_fields(_quiet_root(context)))
        if parent.trace_flags.sampled:
            return None
        quiet = _QuietCall(*_fields(context))
        self._last = (context, quiet)
        return quiet

    def begin_attempt(self, call: _Call, kind: AttemptKind, previous: int) -> _Attempt:
        attributes = {
            "previous-rpc-attempts": previous,
            "transparent-retry": kind is AttemptKind.TRANSPARENT_RETRY,
        }
        name = "Attempt" + call.name.removeprefix("Sent")
        span = self._tracer.start_span(name, call.context, SpanKind.CLIENT, attributes)
        return _Attempt(call, span, trace.set_span_in_context(span, call.context))


_NOTHING = Context()


def _always() -> bool:
    return True


def _remembered(among: dict[Metadata, T], metadata: Metadata, value: T) -> T:
    if len(among) >= _MOST_REMEMBERED:
        among.clear()
    among[metadata] = value
    return value


def _extracted(metadata: Metadata, context: Context) -> Context:
    """A context, and what metadata tells."""
    carrier: dict[str, str] = {}
    for key, value in metadata:
        if isinstance(value, str):
            carrier[key] = f"{carrier[key]},{value}" if key in carrier else value
    return propagate.extract(carrier, context)


def _below_what_is_served(context: Context) -> Context:
    """Of a call that the handler of a server makes which is not traced, the parent is who called
    that, as it would be if the call were not traced either."""
    call = current.get()
    if call is None or trace.get_current_span(context).get_span_context().is_valid:
        return context
    return _extracted(call.carried_metadata, context)


def _quiet_root(context: Context = _NOTHING) -> Context:
    """A context whose span is not recorded, and begins a trace that nobody sees."""
    quiet = SpanContext(getrandbits(128) or 1, getrandbits(64) or 1, is_remote=False)
    return trace.set_span_in_context(NonRecordingSpan(quiet), context)


def _fields(context: Context) -> tuple[bytes, frozenset[str]]:
    """The header fields that carry a context, encoded, and their keys.

    What a propagator gives that gRPC cannot send is left out: tracing must not make calls fail.
    """
    carrier: dict[str, str] = {}
    propagate.inject(carrier, context)
    fields: list[tuple[bytes, bytes]] = []
    for key, value in carrier.items():
        with suppress(ValueError, TypeError):
            fields += encode_metadata(((key.lower(), value),))
    return hpack.encode(fields), frozenset(name.decode() for name, _ in fields)


def _span_name(kind: str, method: Method) -> str:
    return f"{kind}.{method.service}.{method.name}"


def _attributes(method: Method) -> dict[str, str]:
    """By OpenTelemetry's semantic conventions for RPC; gRFC A72 asks for none."""
    return {"rpc.system": "grpc", "rpc.service": method.service, "rpc.method": method.name}


def _conclude(span: Span, outcome: Outcome) -> None:
    code, message = outcome
    span.set_attribute("rpc.grpc.status_code", code)
    span.set_status(Status(StatusCode.ERROR, _described(code, message)) if code else _OK)
    span.end()


def _described(code: int, message: str) -> str:
    """A failure, as grpc-java and gRPC's C core write it: by gRFC A72 the code is in it."""
    name = _STATUSES.get(code, str(code))
    return f"{name}: {message}" if message else name


# -- those that are not recorded -------------------------------------------------------------


class _QuietServed(ServerWatch):
    __slots__ = ("_context",)

    def __init__(self, context: Context) -> None:
        self._context = context

    def enter(self) -> None:
        """What the handler does is not recorded either."""
        contexts.attach(self._context)


class _QuietCall(CallWatch, AttemptWatch):
    __slots__ = ("block", "keys")

    def __init__(self, block: bytes, keys: frozenset[str]) -> None:
        self.block, self.keys = block, keys

    def attempt(self, kind: AttemptKind, previous: int) -> AttemptWatch:
        return self


# -- those that are --------------------------------------------------------------------------


class _Messages(MessageWatch):
    """Makes an event of each message."""

    __slots__ = ("_received", "_sent", "_span")

    def __init__(self, span: Span) -> None:
        self._span = span
        self._sent = self._received = 0

    def sent(self, message: bytes, wire_size: int) -> None:
        self._add("Outbound message", self._sent, len(message), wire_size)
        self._sent += 1

    def received(self, message: bytes, wire_size: int) -> None:
        self._add("Inbound message", self._received, len(message), wire_size)
        self._received += 1

    def _add(self, name: str, number: int, size: int, wire_size: int) -> None:
        attributes = {"sequence-number": number, "message-size": size}
        if wire_size != size:
            attributes["message-size-compressed"] = wire_size
        self._span.add_event(name, attributes)


class _Served(_Messages, ServerWatch):
    __slots__ = ("_context",)

    def __init__(self, span: Span, context: Context, stream: Stream) -> None:
        super().__init__(span)
        self._context = context
        stream.watch = self

    def enter(self) -> None:
        contexts.attach(self._context)

    def ended(self, outcome: Outcome) -> None:
        _conclude(self._span, outcome)


class _Attempt(_Messages, AttemptWatch):
    __slots__ = ("_call", "block", "keys")

    follows = True

    def __init__(self, call: _Call, span: Span, context: Context) -> None:
        super().__init__(span)
        self._call = call
        self.block, self.keys = _fields(context)

    def placed(self, attempt: Placed, *, waited: bool) -> None:
        attempt.stream.watch = self
        if waited:
            self._span.add_event("Delayed LB pick complete")
        self._span.set_attribute("network.peer.address", attempt.address)

    def finished(self, outcome: Outcome, stream: Stream | None) -> None:
        self._call.last = outcome
        _conclude(self._span, outcome)

    def died(self, life: str) -> None:
        """The plugin's process ended during it: linked to the span that the mesh has of that."""
        context = context_of_life(life)
        if context is not None:
            self._span.add_link(context)
            self._call.link(context)


class _Call(CallWatch):
    __slots__ = ("_span", "_tracing", "context", "last", "name")

    def __init__(self, tracing: Tracing, span: Span, context: Context, name: str) -> None:
        self._tracing = tracing
        self._span = span
        self.context = context
        self.name = name
        self.last: Outcome = (CANCELLED, "the caller gave the call up")

    def attempt(self, kind: AttemptKind, previous: int) -> AttemptWatch:
        return self._tracing.begin_attempt(self, kind, previous)

    def link(self, context: SpanContext) -> None:
        self._span.add_link(context)

    def ended(self, outcome: Outcome | None) -> None:
        _conclude(self._span, self.last if outcome is None else outcome)


class _TracedMethod(MethodObserver):
    def __init__(self, tracing: Tracing, target: str, method: Method) -> None:
        self._tracing = tracing
        self._name = _span_name("Sent", method)
        self._attributes = {**_attributes(method), "server.address": target}
        # What is asked after health, or of the mesh for as long as a process runs, begins none.
        self._begins = Meter.counts(method.service)

    def begin(self) -> CallWatch:
        return self._tracing.begin_call(self._name, self._attributes, begins=self._begins)
