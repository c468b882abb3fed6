"""Installing the tracers of a trio run, and composites of several tracers.

    with use_tracers(server=metrics, client=metrics):
        ...  # channels and servers that are made in the block are traced, by outer tracers as well

A composite calls each of its tracers, in order, even if one of them raises.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Generic, TypeVar

import attrs

from meshtrio.http2.hpack.decoder import HeaderField
from meshtrio.rpc import tracer
from meshtrio.rpc.context import ServerContext
from meshtrio.rpc.method import Method
from meshtrio.rpc.stream import Stream
from meshtrio.rpc.tracer_dispatch import (
    MessageTracer,
    log_or_raise_exit,
    notify_tracer,
    start_tracer,
)

T = TypeVar("T")


@contextmanager
def use_tracers(
    *, client: tracer.ClientTracer | None = None, server: tracer.ServerTracer | None = None
) -> Iterator[None]:
    """Trace the calls of all channels and servers that are made in the block.

    Args:
        client: Tracer for channels, in addition to those of enclosing blocks.
        server: Tracer for servers, in addition to those of enclosing blocks.
    """
    before = tracer.installed_tracers.get()
    clients = compose_tracers(CompositeClientTracer, before.client, client)
    servers = compose_tracers(CompositeServerTracer, before.server, server)
    tracer.installed_tracers.set(tracer.Tracers(clients, servers))
    try:
        yield
    finally:
        tracer.installed_tracers.set(before)


def compose_tracers(composite: Callable[[Sequence[T]], T], *tracers: T | None) -> T | None:
    """Return a tracer that calls all of these, a composite of several; None if there is none."""
    present = [each for each in tracers if each is not None]
    return composite(present) if len(present) > 1 else next(iter(present), None)


def _call_each(name: str) -> Any:
    """Make a method that calls each tracer's method of this name, then raises the last exception.

    Each is called even if another one raises.
    """

    def method(self: Any, *args: object) -> None:
        error: BaseException | None = None
        for each in self._tracers:
            try:
                getattr(each, name)(*args)
            except BaseException as exc:
                if exc.__context__ is None:
                    exc.__context__ = error
                error = exc
        if error is not None:
            raise error

    return method


@attrs.define(eq=False, repr=False)
class _Composite(Generic[T]):
    _tracers: Sequence[T]


class _CompositeMessageTracer(_Composite[MessageTracer], MessageTracer):
    __slots__ = ()

    message_sent = _call_each("message_sent")
    message_received = _call_each("message_received")
    half_closed = _call_each("half_closed")
    half_close_received = _call_each("half_close_received")
    headers_received = _call_each("headers_received")


class _CompositeServerCallTracer(_Composite[tracer.ServerCallTracer], tracer.ServerCallTracer):
    __slots__ = ()

    before_handler = _call_each("before_handler")
    call_ended = _call_each("call_ended")


class CompositeServerTracer(_Composite[tracer.ServerTracer], tracer.ServerTracer):
    """Calls several tracers of servers."""

    def start_call(
        self, server_context: ServerContext, method: Method, stream: Stream
    ) -> tracer.ServerCallTracer:
        started: list[tracer.ServerCallTracer] = []
        message_tracers = [stream.message_tracer]
        for each in self._tracers:
            stream.message_tracer = None
            try:
                started.append(each.start_call(server_context, method, stream))
            except BaseException as exc:
                log_or_raise_exit(method.path, exc)
            message_tracers.append(stream.message_tracer)
        stream.message_tracer = compose_tracers(_CompositeMessageTracer, *message_tracers)
        return _CompositeServerCallTracer(started)

    call_rejected = _call_each("call_rejected")


class _CompositeAttemptTracer(_Composite[tracer.AttemptTracer], tracer.AttemptTracer):
    __slots__ = ("extra_header_keys", "extra_headers", "wants_pick_events")

    def __init__(self, tracers: Sequence[tracer.AttemptTracer]) -> None:
        super().__init__(tracers)
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

    def endpoint_picked(self, address: str, stream: Stream, was_delayed: bool) -> None:
        message_tracers = [stream.message_tracer]
        for each in self._tracers:
            if each.wants_pick_events:
                stream.message_tracer = None
                notify_tracer(address, each.endpoint_picked, address, stream, was_delayed)
                message_tracers.append(stream.message_tracer)
        stream.message_tracer = compose_tracers(_CompositeMessageTracer, *message_tracers)

    process_exited = _call_each("process_exited")
    attempt_ended = _call_each("attempt_ended")


class _CompositeClientCallTracer(_Composite[tracer.ClientCallTracer], tracer.ClientCallTracer):
    __slots__ = ()

    def start_attempt(
        self, kind: tracer.AttemptKind, previous_attempts: int
    ) -> tracer.AttemptTracer:
        arguments = tracer.AttemptTracer, kind, previous_attempts
        started = [start_tracer(each.start_attempt, *arguments) for each in self._tracers]
        return _CompositeAttemptTracer(started)

    call_ended = _call_each("call_ended")


class CompositeClientTracer(_Composite[tracer.ClientTracer], tracer.ClientTracer):
    """Calls several tracers of channels."""

    def trace_method(self, target: str, method: Method) -> tracer.StartCall | None:
        arguments = (lambda: None), target, method
        found = (start_tracer(each.trace_method, *arguments) for each in self._tracers)
        starts = [each for each in found if each is not None]

        def start_call() -> tracer.ClientCallTracer:
            return _CompositeClientCallTracer(
                [start_tracer(each, tracer.ClientCallTracer) for each in starts]
            )

        return start_call if starts else None

    outlier_ejected = _call_each("outlier_ejected")
