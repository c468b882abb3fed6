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

from meshtrio.policies.outlier import Verdict
from meshtrio.rpc.observe import (
    AttemptKind,
    AttemptWatch,
    CallWatch,
    ClientObserver,
    Field,
    MessageWatch,
    MethodObserver,
    Outcome,
    Placed,
    ServerObserver,
    ServerWatch,
)
from meshtrio.rpc.tracing import log_or_exit, notify
from meshtrio.wire.heads import RequestHead, ResponseHead

if TYPE_CHECKING:
    from meshtrio.rpc.seam import Method, Request
    from meshtrio.rpc.stream import Stream


@attrs.frozen
class Observers:
    """All that want to know of the calls of one trio run."""

    client: ClientObserver | None = None
    server: ServerObserver | None = None


_NOBODY = Observers()
_observers: trio.lowlevel.RunVar[Observers] = trio.lowlevel.RunVar("meshtrio observers", _NOBODY)


def observers() -> Observers:
    """Those of this trio run; nobody outside of one."""
    return _observers.get() if trio.lowlevel.in_trio_run() else _NOBODY


@contextmanager
def observing(
    *, client: ClientObserver | None = None, server: ServerObserver | None = None
) -> Iterator[None]:
    """Have the calls of all channels and servers observed that are made in the block."""
    before = _observers.get()
    _observers.set(
        Observers(together(before.client, client), together_served(before.server, server))
    )
    try:
        yield
    finally:
        _observers.set(before)


def together(one: ClientObserver | None, other: ClientObserver | None) -> ClientObserver | None:
    """Both; None where there is none."""
    return _Clients(one, other) if one is not None and other is not None else one or other


def together_served(
    one: ServerObserver | None, other: ServerObserver | None
) -> ServerObserver | None:
    """The same for those of servers."""
    return _Servers(one, other) if one is not None and other is not None else one or other


class _Messages(MessageWatch):
    """Tells both of those who want to know of the messages of one stream."""

    __slots__ = ("_one", "_other")

    def __init__(self, one: MessageWatch, other: MessageWatch) -> None:
        self._one, self._other = one, other

    def sent(self, message: bytes, wire_size: int) -> None:
        try:
            self._one.sent(message, wire_size)
        finally:
            self._other.sent(message, wire_size)

    def received(self, message: bytes, wire_size: int) -> None:
        try:
            self._one.received(message, wire_size)
        finally:
            self._other.received(message, wire_size)

    def sent_all(self) -> None:
        try:
            self._one.sent_all()
        finally:
            self._other.sent_all()

    def received_all(self) -> None:
        try:
            self._one.received_all()
        finally:
            self._other.received_all()

    def answered(self, head: ResponseHead) -> None:
        try:
            self._one.answered(head)
        finally:
            self._other.answered(head)


def _join(stream: Stream, before: MessageWatch | None) -> None:
    """Who had made himself the stream's watch is still told, whoever has done so since."""
    if before is not None:
        after = stream.watch
        stream.watch = before if after in (None, before) else _Messages(before, after)


class _ServerWatches(ServerWatch):
    __slots__ = ("one", "other")

    one: ServerWatch
    other: ServerWatch

    def enter(self) -> None:
        try:
            self.one.enter()
        finally:
            self.other.enter()

    def ended(self, outcome: Outcome) -> None:
        try:
            self.one.ended(outcome)
        finally:
            self.other.ended(outcome)


class _Servers(ServerObserver):
    def __init__(self, one: ServerObserver, other: ServerObserver) -> None:
        self._one, self._other = one, other

    def begin(self, request: Request, method: Method, stream: Stream) -> ServerWatch:
        watches = _ServerWatches()
        watches.one = _served(self._one, request, method, stream)
        before = stream.watch
        watches.other = _served(self._other, request, method, stream)
        _join(stream, before)
        return watches

    def refused(self, head: RequestHead, outcome: Outcome) -> None:
        try:
            self._one.refused(head, outcome)
        finally:
            self._other.refused(head, outcome)


def _served(
    observer: ServerObserver, request: Request, method: Method, stream: Stream
) -> ServerWatch:
    """What follows a call; nothing where the tracer raises, which costs the other one nothing."""
    try:
        return observer.begin(request, method, stream)
    except BaseException as exc:
        log_or_exit(method.path, exc)
        return ServerWatch()


class _AttemptWatches(AttemptWatch):
    __slots__ = ("block", "follows", "keys", "one", "other")

    one: AttemptWatch
    other: AttemptWatch

    @classmethod
    def of(cls, one: AttemptWatch, other: AttemptWatch) -> _AttemptWatches:
        watches = cls()
        watches.one, watches.other = one, other
        watches.follows = one.follows or other.follows
        # Where both trace, the context of one goes along: a call has one parent.
        if one.keys.isdisjoint(other.keys):
            watches.block = one.block + other.block
            watches.keys = one.keys | other.keys
        else:
            watches.block, watches.keys = one.block, one.keys
        return watches

    def asks(self, authority: str, fields: Sequence[Field], deadline: float) -> None:
        for watch in (self.one, self.other):
            if watch.follows:
                notify(authority, watch.asks, authority, fields, deadline)

    def placed(self, attempt: Placed, *, waited: bool) -> None:
        for watch in (self.one, self.other):
            if watch.follows:
                before = attempt.stream.watch
                notify(attempt.address, partial(watch.placed, waited=waited), attempt)
                _join(attempt.stream, before)

    def died(self, life: str) -> None:
        try:
            self.one.died(life)
        finally:
            self.other.died(life)

    def finished(self, outcome: Outcome, stream: Stream | None) -> None:
        try:
            self.one.finished(outcome, stream)
        finally:
            self.other.finished(outcome, stream)


class _CallWatches(CallWatch):
    __slots__ = ("one", "other")

    one: CallWatch
    other: CallWatch

    def attempt(self, kind: AttemptKind, previous: int) -> AttemptWatch:
        one, other = (attempted(each, kind, previous) for each in (self.one, self.other))
        return _AttemptWatches.of(one, other)

    def ended(self, outcome: Outcome | None) -> None:
        try:
            self.one.ended(outcome)
        finally:
            self.other.ended(outcome)


class _Methods(MethodObserver):
    def __init__(self, one: MethodObserver, other: MethodObserver) -> None:
        self._one, self._other = one, other

    def begin(self) -> CallWatch:
        watches = _CallWatches()
        watches.one, watches.other = begun(self._one), begun(self._other)
        return watches


class _Clients(ClientObserver):
    def __init__(self, one: ClientObserver, other: ClientObserver) -> None:
        self._one, self._other = one, other

    def method(self, target: str, method: Method) -> MethodObserver:
        return _Methods(
            method_observer(self._one, target, method), method_observer(self._other, target, method)
        )

    def judged(self, target: str, verdict: Verdict) -> None:
        try:
            self._one.judged(target, verdict)
        finally:
            self._other.judged(target, verdict)


# -- tracers that raise -----------------------------------------------------------------------


class _NoAttempt(AttemptWatch):
    __slots__ = ()


class _NoCall(CallWatch):
    __slots__ = ()

    def attempt(self, kind: AttemptKind, previous: int) -> AttemptWatch:
        return _NoAttempt()


class _NoMethod(MethodObserver):
    def begin(self) -> CallWatch:
        return _NoCall()


def method_observer(observer: ClientObserver, target: str, method: Method) -> MethodObserver:
    """What follows the calls of a method; nothing where the tracer raises."""
    try:
        return observer.method(target, method)
    except BaseException as exc:
        log_or_exit(method.path, exc)
        return _NoMethod()


def begun(observer: MethodObserver) -> CallWatch:
    """What follows a call that begins; nothing where the tracer raises."""
    try:
        return observer.begin()
    except BaseException as exc:
        log_or_exit(type(observer).__name__, exc)
        return _NoCall()


def attempted(call: CallWatch, kind: AttemptKind, previous: int) -> AttemptWatch:
    """What follows an attempt that begins; nothing where the tracer raises."""
    try:
        return call.attempt(kind, previous)
    except BaseException as exc:
        log_or_exit(type(call).__name__, exc)
        return _NoAttempt()
