"""Which observers there are, and how several of them observe the same call.

with observing(server=metrics, client=metrics):
    ...  # the channels and servers that are made in the block are observed, by others as well
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING

import attrs
import trio

from meshtrio.grpc.headers import RequestHeaders, ResponseHeaders
from meshtrio.grpc.outlier_detection import Ejection
from meshtrio.grpc.status import CallStatus
from meshtrio.http2.hpack.decoder import HeaderField
from meshtrio.rpc.tracer import (
    AttemptKind,
    AttemptTracer,
    ClientCallTracer,
    ClientTracer,
    MessageTracer,
    MethodTracer,
    PickedAttempt,
    ServerCallTracer,
    ServerTracer,
)
from meshtrio.rpc.tracer_dispatch import log_or_raise_exit, notify_tracer

if TYPE_CHECKING:
    from meshtrio.rpc.purerpc_compat import Method, ServerContext
    from meshtrio.rpc.stream import Stream


@attrs.frozen
class Tracers:
    """All that want to know of the calls of one trio run."""

    client: ClientTracer | None = None
    server: ServerTracer | None = None


_NO_TRACERS = Tracers()
_tracers: trio.lowlevel.RunVar[Tracers] = trio.lowlevel.RunVar("meshtrio observers", _NO_TRACERS)


def current_tracers() -> Tracers:
    """Those of this trio run; nobody outside of one."""
    return _tracers.get() if trio.lowlevel.in_trio_run() else _NO_TRACERS


@contextmanager
def use_tracers(
    *, client: ClientTracer | None = None, server: ServerTracer | None = None
) -> Iterator[None]:
    """Have the calls of all channels and servers observed that are made in the block."""
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


def compose_client_tracers(
    one: ClientTracer | None, other: ClientTracer | None
) -> ClientTracer | None:
    """Both; None where there is none."""
    return (
        _CompositeClientTracer(one, other)
        if one is not None and other is not None
        else one or other
    )


def compose_server_tracers(
    one: ServerTracer | None, other: ServerTracer | None
) -> ServerTracer | None:
    """The same for those of servers."""
    return (
        _CompositeServerTracer(one, other)
        if one is not None and other is not None
        else one or other
    )


class _CompositeMessageTracer(MessageTracer):
    """Tells both of those who want to know of the messages of one stream."""

    __slots__ = ("_one", "_other")

    def __init__(self, one: MessageTracer, other: MessageTracer) -> None:
        self._one, self._other = one, other

    def message_sent(self, message: bytes, wire_size: int) -> None:
        try:
            self._one.message_sent(message, wire_size)
        finally:
            self._other.message_sent(message, wire_size)

    def message_received(self, message: bytes, wire_size: int) -> None:
        try:
            self._one.message_received(message, wire_size)
        finally:
            self._other.message_received(message, wire_size)

    def half_closed(self) -> None:
        try:
            self._one.half_closed()
        finally:
            self._other.half_closed()

    def half_close_received(self) -> None:
        try:
            self._one.half_close_received()
        finally:
            self._other.half_close_received()

    def headers_received(self, headers: ResponseHeaders) -> None:
        try:
            self._one.headers_received(headers)
        finally:
            self._other.headers_received(headers)


def _chain_message_tracers(stream: Stream, before: MessageTracer | None) -> None:
    """Who had made himself the stream's watch is still told, whoever has done so since."""
    if before is not None:
        after = stream.message_tracer
        stream.message_tracer = (
            before if after in (None, before) else _CompositeMessageTracer(before, after)
        )


class _CompositeServerCallTracer(ServerCallTracer):
    __slots__ = ("one", "other")

    one: ServerCallTracer
    other: ServerCallTracer

    def before_handler(self) -> None:
        try:
            self.one.before_handler()
        finally:
            self.other.before_handler()

    def call_ended(self, status: CallStatus) -> None:
        try:
            self.one.call_ended(status)
        finally:
            self.other.call_ended(status)


class _CompositeServerTracer(ServerTracer):
    def __init__(self, one: ServerTracer, other: ServerTracer) -> None:
        self._one, self._other = one, other

    def start_call(
        self, server_context: ServerContext, method: Method, stream: Stream
    ) -> ServerCallTracer:
        watches = _CompositeServerCallTracer()
        watches.one = _start_server_call_tracer(self._one, server_context, method, stream)
        before = stream.message_tracer
        watches.other = _start_server_call_tracer(self._other, server_context, method, stream)
        _chain_message_tracers(stream, before)
        return watches

    def call_rejected(self, headers: RequestHeaders, status: CallStatus) -> None:
        try:
            self._one.call_rejected(headers, status)
        finally:
            self._other.call_rejected(headers, status)


def _start_server_call_tracer(
    tracer: ServerTracer, server_context: ServerContext, method: Method, stream: Stream
) -> ServerCallTracer:
    """What follows a call; nothing where the tracer raises, which costs the other one nothing."""
    try:
        return tracer.start_call(server_context, method, stream)
    except BaseException as exc:
        log_or_raise_exit(method.path, exc)
        return ServerCallTracer()


class _CompositeAttemptTracer(AttemptTracer):
    __slots__ = ("extra_header_keys", "extra_headers", "one", "other", "wants_pick_events")

    one: AttemptTracer
    other: AttemptTracer

    @classmethod
    def of(cls, one: AttemptTracer, other: AttemptTracer) -> _CompositeAttemptTracer:
        watches = cls()
        watches.one, watches.other = one, other
        watches.wants_pick_events = one.wants_pick_events or other.wants_pick_events
        # Where both trace, the context of one goes along: a call has one parent.
        if one.extra_header_keys.isdisjoint(other.extra_header_keys):
            watches.extra_headers = one.extra_headers + other.extra_headers
            watches.extra_header_keys = one.extra_header_keys | other.extra_header_keys
        else:
            watches.extra_headers, watches.extra_header_keys = (
                one.extra_headers,
                one.extra_header_keys,
            )
        return watches

    def before_pick(self, authority: str, fields: Sequence[HeaderField], deadline: float) -> None:
        for watch in (self.one, self.other):
            if watch.wants_pick_events:
                notify_tracer(authority, watch.before_pick, authority, fields, deadline)

    def endpoint_picked(self, attempt: PickedAttempt, *, was_delayed: bool) -> None:
        for watch in (self.one, self.other):
            if watch.wants_pick_events:
                before = attempt.stream.message_tracer
                notify_tracer(
                    attempt.address,
                    partial(watch.endpoint_picked, was_delayed=was_delayed),
                    attempt,
                )
                _chain_message_tracers(attempt.stream, before)

    def process_exited(self, launch_id: str) -> None:
        try:
            self.one.process_exited(launch_id)
        finally:
            self.other.process_exited(launch_id)

    def attempt_ended(self, status: CallStatus, stream: Stream | None) -> None:
        try:
            self.one.attempt_ended(status, stream)
        finally:
            self.other.attempt_ended(status, stream)


class _CompositeClientCallTracer(ClientCallTracer):
    __slots__ = ("one", "other")

    one: ClientCallTracer
    other: ClientCallTracer

    def start_attempt(self, kind: AttemptKind, previous_attempts: int) -> AttemptTracer:
        one, other = (
            start_attempt_tracer(each, kind, previous_attempts) for each in (self.one, self.other)
        )
        return _CompositeAttemptTracer.of(one, other)

    def call_ended(self, status: CallStatus | None) -> None:
        try:
            self.one.call_ended(status)
        finally:
            self.other.call_ended(status)


class _CompositeMethodTracer(MethodTracer):
    def __init__(self, one: MethodTracer, other: MethodTracer) -> None:
        self._one, self._other = one, other

    def start_call(self) -> ClientCallTracer:
        watches = _CompositeClientCallTracer()
        watches.one, watches.other = (
            start_client_call_tracer(self._one),
            start_client_call_tracer(self._other),
        )
        return watches


class _CompositeClientTracer(ClientTracer):
    def __init__(self, one: ClientTracer, other: ClientTracer) -> None:
        self._one, self._other = one, other

    def trace_method(self, target: str, method: Method) -> MethodTracer:
        return _CompositeMethodTracer(
            start_method_tracer(self._one, target, method),
            start_method_tracer(self._other, target, method),
        )

    def outlier_ejected(self, target: str, ejection: Ejection) -> None:
        try:
            self._one.outlier_ejected(target, ejection)
        finally:
            self._other.outlier_ejected(target, ejection)


# -- tracers that raise -----------------------------------------------------------------------


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
    """What follows the calls of a method; nothing where the tracer raises."""
    try:
        return tracer.trace_method(target, method)
    except BaseException as exc:
        log_or_raise_exit(method.path, exc)
        return _NoOpMethodTracer()


def start_client_call_tracer(tracer: MethodTracer) -> ClientCallTracer:
    """What follows a call that begins; nothing where the tracer raises."""
    try:
        return tracer.start_call()
    except BaseException as exc:
        log_or_raise_exit(type(tracer).__name__, exc)
        return _NoOpClientCallTracer()


def start_attempt_tracer(
    call_tracer: ClientCallTracer, kind: AttemptKind, previous_attempts: int
) -> AttemptTracer:
    """What follows an attempt that begins; nothing where the tracer raises."""
    try:
        return call_tracer.start_attempt(kind, previous_attempts)
    except BaseException as exc:
        log_or_raise_exit(type(call_tracer).__name__, exc)
        return _NoOpAttemptTracer()
