"""Which observers there are, and how several of them observe the same call.

with observing(server=metrics, client=metrics):
    ...  # the channels and servers that are made in the block are observed, by others as well
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
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
        self._one.sent(message, wire_size)
        self._other.sent(message, wire_size)

    def received(self, message: bytes, wire_size: int) -> None:
        self._one.received(message, wire_size)
        self._other.received(message, wire_size)

    def sent_all(self) -> None:
        self._one.sent_all()
        self._other.sent_all()

    def received_all(self) -> None:
        self._one.received_all()
        self._other.received_all()

    def answered(self, head: ResponseHead) -> None:
        self._one.answered(head)
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
        self.one.enter()
        self.other.enter()

    def ended(self, outcome: Outcome) -> None:
        self.one.ended(outcome)
        self.other.ended(outcome)


class _Servers(ServerObserver):
    def __init__(self, one: ServerObserver, other: ServerObserver) -> None:
        self._one, self._other = one, other

    def begin(self, request: Request, method: Method, stream: Stream) -> ServerWatch:
        watches = _ServerWatches()
        watches.one = self._one.begin(request, method, stream)
        before = stream.watch
        watches.other = self._other.begin(request, method, stream)
        _join(stream, before)
        return watches

    def refused(self, head: RequestHead, outcome: Outcome) -> None:
        self._one.refused(head, outcome)
        self._other.refused(head, outcome)


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
                watch.asks(authority, fields, deadline)

    def placed(self, attempt: Placed, *, waited: bool) -> None:
        for watch in (self.one, self.other):
            if watch.follows:
                before = attempt.stream.watch
                watch.placed(attempt, waited=waited)
                _join(attempt.stream, before)

    def died(self, life: str) -> None:
        self.one.died(life)
        self.other.died(life)

    def finished(self, outcome: Outcome, stream: Stream | None) -> None:
        self.one.finished(outcome, stream)
        self.other.finished(outcome, stream)


class _CallWatches(CallWatch):
    __slots__ = ("one", "other")

    one: CallWatch
    other: CallWatch

    def attempt(self, kind: AttemptKind, previous: int) -> AttemptWatch:
        one, other = self.one.attempt(kind, previous), self.other.attempt(kind, previous)
        return _AttemptWatches.of(one, other)

    def ended(self, outcome: Outcome | None) -> None:
        self.one.ended(outcome)
        self.other.ended(outcome)


class _Methods(MethodObserver):
    def __init__(self, one: MethodObserver, other: MethodObserver) -> None:
        self._one, self._other = one, other

    def begin(self) -> CallWatch:
        watches = _CallWatches()
        watches.one, watches.other = self._one.begin(), self._other.begin()
        return watches


class _Clients(ClientObserver):
    def __init__(self, one: ClientObserver, other: ClientObserver) -> None:
        self._one, self._other = one, other

    def method(self, target: str, method: Method) -> MethodObserver:
        return _Methods(self._one.method(target, method), self._other.method(target, method))

    def judged(self, target: str, verdict: Verdict) -> None:
        self._one.judged(target, verdict)
        self._other.judged(target, verdict)
