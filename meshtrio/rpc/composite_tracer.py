"""The tracers of a trio run, and composites of several tracers.

    with use_tracers(server=metrics, client=metrics):
        ...  # channels and servers that are made in the block are traced, by outer tracers as well

A composite calls each of its tracers, in order, even if one of them raises.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeVar

import attrs
import trio

from meshtrio.http2.hpack.decoder import HeaderField
from meshtrio.rpc.context import ServerContext
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
from meshtrio.rpc.tracer_dispatch import MessageTracer, log_or_raise_exit, notify_tracer

T = TypeVar("T")


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
    present = [each for each in tracers if each is not None]
    return _CompositeClientTracer(present) if len(present) > 1 else present[0] if present else None


def compose_server_tracers(*tracers: ServerTracer | None) -> ServerTracer | None:
    """Return a tracer that calls all of these; None if there is none."""
    present = [each for each in tracers if each is not None]
    return _CompositeServerTracer(present) if len(present) > 1 else present[0] if present else None


def start_tracer(start: Callable[..., T], default: type[T], *args: object) -> T:
    """Return the tracer that `start` returns for its arguments, or one that does nothing.

    If `start` raises, that is logged.
    """
    try:
        return start(*args)
    except BaseException as exc:
        log_or_raise_exit(getattr(start, "__qualname__", repr(start)), exc)
        return default()


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


@attrs.define(eq=False)
class _CompositeMessageTracer(MessageTracer):
    _tracers: Sequence[MessageTracer]

    message_sent = _call_each("message_sent")
    message_received = _call_each("message_received")
    half_closed = _call_each("half_closed")
    half_close_received = _call_each("half_close_received")
    headers_received = _call_each("headers_received")


def _take_message_tracer(stream: Stream) -> list[MessageTracer]:
    """Remove and return the message tracer of a stream, so that the next tracer can set its own."""
    tracer, stream.message_tracer = stream.message_tracer, None
    return [] if tracer is None else [tracer]


def _compose_message_tracers(tracers: list[MessageTracer]) -> MessageTracer | None:
    return _CompositeMessageTracer(tracers) if len(tracers) > 1 else tracers[0] if tracers else None


@attrs.define(eq=False)
class _CompositeServerCallTracer(ServerCallTracer):
    _tracers: Sequence[ServerCallTracer]

    before_handler = _call_each("before_handler")
    call_ended = _call_each("call_ended")


@attrs.define(eq=False)
class _CompositeServerTracer(ServerTracer):
    _tracers: Sequence[ServerTracer]

    def start_call(
        self, server_context: ServerContext, method: Method, stream: Stream
    ) -> ServerCallTracer:
        started: list[ServerCallTracer] = []
        message_tracers = _take_message_tracer(stream)
        for each in self._tracers:
            try:
                started.append(each.start_call(server_context, method, stream))
            except BaseException as exc:
                log_or_raise_exit(method.path, exc)
            message_tracers += _take_message_tracer(stream)
        stream.message_tracer = _compose_message_tracers(message_tracers)
        return _CompositeServerCallTracer(started)

    call_rejected = _call_each("call_rejected")


class _CompositeAttemptTracer(AttemptTracer):
    __slots__ = ("_tracers", "extra_header_keys", "extra_headers", "wants_pick_events")

    def __init__(self, tracers: Sequence[AttemptTracer]) -> None:
        self._tracers = tracers
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

    process_exited = _call_each("process_exited")
    attempt_ended = _call_each("attempt_ended")


@attrs.define(eq=False)
class _CompositeClientCallTracer(ClientCallTracer):
    _tracers: Sequence[ClientCallTracer]

    def start_attempt(self, kind: AttemptKind, previous_attempts: int) -> AttemptTracer:
        return _CompositeAttemptTracer(
            [
                start_tracer(each.start_attempt, AttemptTracer, kind, previous_attempts)
                for each in self._tracers
            ]
        )

    call_ended = _call_each("call_ended")


@attrs.define(eq=False)
class _CompositeMethodTracer(MethodTracer):
    _tracers: Sequence[MethodTracer]

    def start_call(self) -> ClientCallTracer:
        return _CompositeClientCallTracer(
            [start_tracer(each.start_call, ClientCallTracer) for each in self._tracers]
        )


@attrs.define(eq=False)
class _CompositeClientTracer(ClientTracer):
    _tracers: Sequence[ClientTracer]

    def trace_method(self, target: str, method: Method) -> MethodTracer:
        starts = [each.trace_method for each in self._tracers]
        return _CompositeMethodTracer(
            [start_tracer(start, MethodTracer, target, method) for start in starts]
        )

    outlier_ejected = _call_each("outlier_ejected")
