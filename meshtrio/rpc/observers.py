"""Which observers there are, and how several of them observe the same call.

with observing(server=metrics, client=metrics):
    ...  # the channels and servers that are made in the block are observed, by others as well
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Generic, TypeVar

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


W = TypeVar("W", bound=MessageWatch)


def together(one: ClientObserver | None, other: ClientObserver | None) -> ClientObserver | None:
    """Both; None where there is none."""
    return _Clients((one, other)) if one is not None and other is not None else one or other


def together_served(
    one: ServerObserver | None, other: ServerObserver | None
) -> ServerObserver | None:
    """The same for those of servers."""
    return _Servers((one, other)) if one is not None and other is not None else one or other


class _Messages(MessageWatch, Generic[W]):
    """Tells all of those who want to know of the messages of one stream."""

    __slots__ = ("_wanting", "_watches")

    def __init__(self, watches: Sequence[W]) -> None:
        self._watches = watches
        self._wanting: Sequence[MessageWatch] = ()

    def _join(self, stream: Stream, wanting: list[MessageWatch]) -> None:
        self._wanting = wanting
        stream.watch = self if wanting else None

    def sent(self, message: bytes, wire_size: int) -> None:
        for watch in self._wanting:
            watch.sent(message, wire_size)

    def received(self, message: bytes, wire_size: int) -> None:
        for watch in self._wanting:
            watch.received(message, wire_size)

    def sent_all(self) -> None:
        for watch in self._wanting:
            watch.sent_all()

    def received_all(self) -> None:
        for watch in self._wanting:
            watch.received_all()

    def answered(self, head: ResponseHead) -> None:
        for watch in self._wanting:
            watch.answered(head)


def _taken(stream: Stream) -> list[MessageWatch]:
    """What an observer has made the stream's watch, to be told by us."""
    watch, stream.watch = stream.watch, None
    return [] if watch is None else [watch]


class _ServerWatches(_Messages[ServerWatch], ServerWatch):
    __slots__ = ()

    @classmethod
    def begin(
        cls,
        servers: Sequence[ServerObserver],
        request: Request,
        method: Method,
        stream: Stream,
    ) -> _ServerWatches:
        watches: list[ServerWatch] = []
        wanting: list[MessageWatch] = []
        for server in servers:
            watches.append(server.begin(request, method, stream))
            wanting += _taken(stream)
        found = cls(watches)
        found._join(stream, wanting)
        return found

    def enter(self) -> None:
        for watch in self._watches:
            watch.enter()

    def ended(self, outcome: Outcome) -> None:
        for watch in self._watches:
            watch.ended(outcome)


class _Servers(ServerObserver):
    def __init__(self, servers: Sequence[ServerObserver]) -> None:
        self._servers = servers

    def begin(self, request: Request, method: Method, stream: Stream) -> ServerWatch:
        return _ServerWatches.begin(self._servers, request, method, stream)

    def refused(self, head: RequestHead, outcome: Outcome) -> None:
        for server in self._servers:
            server.refused(head, outcome)


class _AttemptWatches(_Messages[AttemptWatch], AttemptWatch):
    __slots__ = ("_following", "block", "follows", "keys")

    def __init__(self, watches: Sequence[AttemptWatch]) -> None:
        super().__init__(watches)
        self._following = [watch for watch in watches if watch.follows]
        self.follows = bool(self._following)
        self.block: bytes = b""
        self.keys: frozenset[str] = frozenset()
        for watch in watches:
            # Where two of them trace, one's context goes along: a call has one parent.
            if self.keys.isdisjoint(watch.keys):
                self.block += watch.block
                self.keys |= watch.keys

    def asks(self, authority: str, fields: Sequence[Field], deadline: float) -> None:
        for watch in self._following:
            watch.asks(authority, fields, deadline)

    def placed(self, attempt: Placed, *, waited: bool) -> None:
        wanting: list[MessageWatch] = []
        for watch in self._following:
            watch.placed(attempt, waited=waited)
            wanting += _taken(attempt.stream)
        self._join(attempt.stream, wanting)

    def died(self, life: str) -> None:
        for watch in self._watches:
            watch.died(life)

    def finished(self, outcome: Outcome, stream: Stream | None) -> None:
        for watch in self._watches:
            watch.finished(outcome, stream)


class _CallWatches(CallWatch):
    __slots__ = ("_watches",)

    def __init__(self, watches: Sequence[CallWatch]) -> None:
        self._watches = watches

    def attempt(self, kind: AttemptKind, previous: int) -> AttemptWatch:
        return _AttemptWatches([watch.attempt(kind, previous) for watch in self._watches])

    def ended(self, outcome: Outcome | None) -> None:
        for watch in self._watches:
            watch.ended(outcome)


class _Methods(MethodObserver):
    def __init__(self, methods: Sequence[MethodObserver]) -> None:
        self._methods = methods

    def begin(self) -> CallWatch:
        return _CallWatches([method.begin() for method in self._methods])


class _Clients(ClientObserver):
    def __init__(self, clients: Sequence[ClientObserver]) -> None:
        self._clients = clients

    def method(self, target: str, method: Method) -> MethodObserver:
        return _Methods([client.method(target, method) for client in self._clients])

    def judged(self, target: str, verdict: Verdict) -> None:
        for client in self._clients:
            client.judged(target, verdict)
