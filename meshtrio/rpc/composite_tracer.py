"""The tracers of a trio run, and composites of several tracers.

    with use_tracers(server=metrics, client=metrics):
        ...  # channels and servers that are made in the block are traced, by outer tracers as well

A composite calls each of its tracers, in order, even if one of them raises.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING

import attrs
import trio

from meshtrio.grpc.headers import RequestHeaders, ResponseHeaders
from meshtrio.grpc.status import CallStatus
from meshtrio.http2.hpack.decoder import HeaderField
from meshtrio.rpc.context import ServerContext
from meshtrio.rpc.message_tracer import MessageTracer
from meshtrio.rpc.method import Method
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
from meshtrio.rpc.tracer_dispatch import log_or_raise_exit, notify_tracer

if TYPE_CHECKING:
    from meshtrio.grpc.outlier_detection import Ejection


@attrs.frozen
class Tracers:
    """The tracers that new channels and servers of a trio run use."""

    client: ClientTracer | None = None
    server: ServerTracer | None = None


_NO_TRACERS = Tracers()
_tracers: trio.lowlevel.RunVar[Tracers] = trio.lowlevel.RunVar("meshtrio tracers", _NO_TRACERS)


def current_tracers() -> Tracers:
    """Return the tracers of this trio run; none outside of a run."""
    return _tracers.get() if trio.lowlevel.in_trio_run() else _NO_TRACERS


@contextmanager
def use_tracers(
    *, client: ClientTracer | None = None, server: ServerTracer | None = None
) -> Iterator[None]:
    """Trace the calls of all channels and servers that are made in the block.

    Args:
        client: Tracer for channels, in addition to those of enclosing blocks.
        server: Tracer for servers, in addition to those of enclosing blocks.
    """
    before = _tracers.get()
    _tracers.set(
        Tracers(
            compose_client_tracers(before.client, client),
            compose_server_tracers(before.server, server),
        )
    )
    try:
        yield
    finally:
        _tracers.set(before)


def compose_client_tracers(*tracers: ClientTracer | None) -> ClientTracer | None:
    """Return a tracer that calls all of these; None if there is none."""
    present = tuple(each for each in tracers if each is not None)
    return _CompositeClientTracer(present) if len(present) > 1 else present[0] if present else None


def compose_server_tracers(*tracers: ServerTracer | None) -> ServerTracer | None:
    """Return a tracer that calls all of these; None if there is none."""
    present = tuple(each for each in tracers if each is not None)
    return _CompositeServerTracer(present) if len(present) > 1 else present[0] if present else None


def _call_each(methods: Iterable[Callable[..., None]], *args: object) -> None:
    """Call each method even if another one raises, then raise the last exception."""
    error: BaseException | None = None
    for method in methods:
        try:
            method(*args)
        except BaseException as exc:
            if exc.__context__ is None:
                exc.__context__ = error
            error = exc
    if error is not None:
        raise error


class _CompositeMessageTracer(MessageTracer):
    __slots__ = ("_tracers",)

    def __init__(self, tracers: Sequence[MessageTracer]) -> None:
        self._tracers = tuple(tracers)

    def message_sent(self, message: bytes, wire_size: int) -> None:
        _call_each((each.message_sent for each in self._tracers), message, wire_size)

    def message_received(self, message: bytes, wire_size: int) -> None:
        _call_each((each.message_received for each in self._tracers), message, wire_size)

    def half_closed(self) -> None:
        _call_each(each.half_closed for each in self._tracers)

    def half_close_received(self) -> None:
        _call_each(each.half_close_received for each in self._tracers)

    def headers_received(self, headers: ResponseHeaders) -> None:
        _call_each((each.headers_received for each in self._tracers), headers)


def _take_message_tracer(stream: Stream) -> list[MessageTracer]:
    """Remove and return the message tracer of a stream, so that the next tracer can set its own."""
    tracer, stream.message_tracer = stream.message_tracer, None
    return [] if tracer is None else [tracer]


def _compose_message_tracers(tracers: list[MessageTracer]) -> MessageTracer | None:
    return _CompositeMessageTracer(tracers) if len(tracers) > 1 else tracers[0] if tracers else None


class _CompositeServerCallTracer(ServerCallTracer):
    __slots__ = ("_tracers",)

    def __init__(self, tracers: Sequence[ServerCallTracer]) -> None:
        self._tracers = tuple(tracers)

    def before_handler(self) -> None:
        _call_each(each.before_handler for each in self._tracers)

    def call_ended(self, status: CallStatus) -> None:
        _call_each((each.call_ended for each in self._tracers), status)


class _CompositeServerTracer(ServerTracer):
    def __init__(self, tracers: tuple[ServerTracer, ...]) -> None:
        self._tracers = tracers

    def start_call(
        self, server_context: ServerContext, method: Method, stream: Stream
    ) -> ServerCallTracer:
        started: list[ServerCallTracer] = []
        message_tracers = _take_message_tracer(stream)
        for each in self._tracers:
            started.append(_start_server_call_tracer(each, server_context, method, stream))
            message_tracers += _take_message_tracer(stream)
        stream.message_tracer = _compose_message_tracers(message_tracers)
        return _CompositeServerCallTracer(started)

    def call_rejected(self, headers: RequestHeaders, status: CallStatus) -> None:
        _call_each((each.call_rejected for each in self._tracers), headers, status)


def _start_server_call_tracer(
    tracer: ServerTracer, server_context: ServerContext, method: Method, stream: Stream
) -> ServerCallTracer:
    """Return the tracer of a call, or one that does nothing if making it raises."""
    try:
        return tracer.start_call(server_context, method, stream)
    except BaseException as exc:
        log_or_raise_exit(method.path, exc)
        return ServerCallTracer()


class _CompositeAttemptTracer(AttemptTracer):
    __slots__ = ("_tracers", "extra_header_keys", "extra_headers", "wants_pick_events")

    def __init__(self, tracers: Sequence[AttemptTracer]) -> None:
        self._tracers = tuple(tracers)
        self.wants_pick_events = any(each.wants_pick_events for each in tracers)
        self.extra_headers, self.extra_header_keys = b"", frozenset[str]()
        for each in tracers:
            # A call has one parent: if several tracers send a trace context, the first one counts.
            if self.extra_header_keys.isdisjoint(each.extra_header_keys):
                self.extra_headers += each.extra_headers
                self.extra_header_keys |= each.extra_header_keys

    def before_pick(self, authority: str, fields: Sequence[HeaderField], deadline: float) -> None:
        for each in self._tracers:
            if each.wants_pick_events:
                notify_tracer(authority, each.before_pick, authority, fields, deadline)

    def endpoint_picked(self, attempt: PickedAttempt, *, was_delayed: bool) -> None:
        stream = attempt.stream
        message_tracers = _take_message_tracer(stream)
        for each in self._tracers:
            if each.wants_pick_events:
                method = partial(each.endpoint_picked, was_delayed=was_delayed)
                notify_tracer(attempt.address, method, attempt)
                message_tracers += _take_message_tracer(stream)
        stream.message_tracer = _compose_message_tracers(message_tracers)

    def process_exited(self, launch_id: str) -> None:
        _call_each((each.process_exited for each in self._tracers), launch_id)

    def attempt_ended(self, status: CallStatus, stream: Stream | None) -> None:
        _call_each((each.attempt_ended for each in self._tracers), status, stream)


class _CompositeClientCallTracer(ClientCallTracer):
    __slots__ = ("_tracers",)

    def __init__(self, tracers: Sequence[ClientCallTracer]) -> None:
        self._tracers = tuple(tracers)

    def start_attempt(self, kind: AttemptKind, previous_attempts: int) -> AttemptTracer:
        return _CompositeAttemptTracer(
            [start_attempt_tracer(each, kind, previous_attempts) for each in self._tracers]
        )

    def call_ended(self, status: CallStatus | None) -> None:
        _call_each((each.call_ended for each in self._tracers), status)


class _CompositeMethodTracer(MethodTracer):
    def __init__(self, tracers: Sequence[MethodTracer]) -> None:
        self._tracers = tuple(tracers)

    def start_call(self) -> ClientCallTracer:
        return _CompositeClientCallTracer(
            [start_client_call_tracer(each) for each in self._tracers]
        )


class _CompositeClientTracer(ClientTracer):
    def __init__(self, tracers: tuple[ClientTracer, ...]) -> None:
        self._tracers = tracers

    def trace_method(self, target: str, method: Method) -> MethodTracer:
        return _CompositeMethodTracer(
            [start_method_tracer(each, target, method) for each in self._tracers]
        )

    def outlier_ejected(self, target: str, ejection: Ejection) -> None:
        _call_each((each.outlier_ejected for each in self._tracers), target, ejection)


# -- starting tracers that may raise ----------------------------------------------------------


class _NoOpAttemptTracer(AttemptTracer):
    __slots__ = ()


class _NoOpClientCallTracer(ClientCallTracer):
    __slots__ = ()

    def start_attempt(self, kind: AttemptKind, previous_attempts: int) -> AttemptTracer:
        return _NoOpAttemptTracer()


class _NoOpMethodTracer(MethodTracer):
    def start_call(self) -> ClientCallTracer:
        return _NoOpClientCallTracer()


def start_method_tracer(tracer: ClientTracer, target: str, method: Method) -> MethodTracer:
    """Return the tracer of a method, or one that does nothing if making it raises."""
    try:
        return tracer.trace_method(target, method)
    except BaseException as exc:
        log_or_raise_exit(method.path, exc)
        return _NoOpMethodTracer()


def start_client_call_tracer(tracer: MethodTracer) -> ClientCallTracer:
    """Return the tracer of a call, or one that does nothing if making it raises."""
    try:
        return tracer.start_call()
    except BaseException as exc:
        log_or_raise_exit(type(tracer).__name__, exc)
        return _NoOpClientCallTracer()


def start_attempt_tracer(
    call_tracer: ClientCallTracer, kind: AttemptKind, previous_attempts: int
) -> AttemptTracer:
    """Return the tracer of an attempt, or one that does nothing if making it raises."""
    try:
        return call_tracer.start_attempt(kind, previous_attempts)
    except BaseException as exc:
        log_or_raise_exit(type(call_tracer).__name__, exc)
        return _NoOpAttemptTracer()
