"""A link: the connection to one endpoint, kept up while any channel of the process uses it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from random import Random

import attrs
import trio

from meshtrio.address import Address
from meshtrio.client.dial import Tls, dial
from meshtrio.client.dialing import DialLimiter
from meshtrio.client.endpoint import RECONNECT, RECONNECT_LOCAL, RECONNECT_REGISTERED, Endpoint
from meshtrio.errors import OUT_OF_RESOURCES
from meshtrio.rpc import census
from meshtrio.rpc.client import ClientConnection
from meshtrio.rpc.stream import Stream
from meshtrio.rpc.tally import Tally, calls_in_the_end, calls_of
from meshtrio.rpc.timeouts import ACROSS_A_NETWORK, Timeouts
from meshtrio.rpc.transport import Transport
from meshtrio.structured import next_beat
from meshtrio.wire.limits import Limits

_log = logging.getLogger("meshtrio.rpc")

_HOUSEKEEPING = 1.0
_DIAL_WITHIN = 10.0
"""Seconds from the first packet to a connection."""
_BACKLOG_WAIT = 5.0
"""Seconds that a server whose backlog is full has to accept connections."""
_LASTING = 5.0
"""Seconds after which a connection has been of use, even without a call."""
_ESTABLISH_WITHIN = 20.0
"""Seconds a server has to send its SETTINGS."""


@attrs.frozen
class Manner:
    """How a channel speaks to its endpoints: channels that do so alike share their links."""

    limits: Limits | None = None
    tls: Tls | None = None
    """For all endpoints; by default it is theirs to say."""
    timeouts: Timeouts | None = None
    """By default `Timeouts()`, and across a network a peer that is silent is asked why."""

    def timeouts_for(self, endpoint: Endpoint) -> Timeouts:
        if self.timeouts is not None:
            return self.timeouts
        return _ON_THIS_MACHINE if Address.parse(endpoint.address).is_local else ACROSS_A_NETWORK


_ON_THIS_MACHINE = Timeouts()
_NO_STREAMS: dict[int, Stream] = {}


class Link:
    """Runs in its pool's nursery; its users are called when its readiness may have changed."""

    def __init__(self, endpoint: Endpoint, manner: Manner, dials: DialLimiter) -> None:
        self.endpoint = endpoint
        self.connection: ClientConnection | None = None
        """The one that takes calls now."""
        self.streams = _NO_STREAMS
        """The calls it has."""
        self.watches = 0
        """Of these, watches of its health, which are no load."""
        self.error = ""
        """Why the last attempt to connect failed, "" once one succeeded."""
        self.users: list[Callable[[], None]] = []
        self.entry = census.Entry()
        census.SUBCHANNELS.enter(self.entry.number, self)
        self.past = Tally()
        """Calls of connections that are over."""
        self._manner = manner
        self._timeouts = manner.timeouts_for(endpoint)
        self._dials = dials
        self._is_local = Address.parse(endpoint.address).is_local
        self._backoff = RECONNECT_LOCAL if self._is_local else RECONNECT
        if endpoint.is_registered:
            self._backoff = RECONNECT_REGISTERED
        self._rng = Random()
        self._unused = trio.Event()
        self._dialing = trio.CancelScope()
        self._connections: set[ClientConnection] = set()

    @property
    def connections(self) -> tuple[ClientConnection, ...]:
        """Those that still finish their calls, too."""
        return tuple(self._connections)

    @property
    def usable(self) -> bool:
        return self.connection is not None and self.connection.usable

    def _changed(self) -> None:
        for user in list(self.users):
            user()

    @contextmanager
    def watched(self) -> Iterator[None]:
        """A call of the block is one of the watches."""
        self.watches += 1
        try:
            yield
        finally:
            self.watches -= 1

    def drop(self) -> None:
        """Nobody uses it any more: take no calls, let those under way finish, then end."""
        census.SUBCHANNELS.leave(self.entry.number)
        self._unused.set()
        self._dialing.cancel()
        for connection in list(self._connections):
            connection.retire()

    def streams_of(self, owner: object) -> list[tuple[ClientConnection, Stream]]:
        """The calls that one channel has here, on connections that take no new ones too."""
        return [
            (connection, stream)
            for connection in self._connections
            for stream in list(connection.streams.values())
            if stream.owner is owner
        ]

    async def run(self) -> None:
        """Connect, and connect again with backoff, until `drop` is called or this is cancelled.

        A connection that takes no new calls is replaced at once; it finishes those it has beside
        its successor.
        """
        failures = 0
        async with trio.open_nursery() as nursery:
            if self._timeouts.watches_silence:
                nursery.start_soon(self._keep_house)
            while not self._unused.is_set():
                failures = 0 if await self._connect(nursery) else failures + 1
                delay = self._backoff.delay(max(failures, 1), self._rng)
                await self._rest_until(trio.current_time() + delay)
                if failures:
                    at = self._dials.retry_at(self.endpoint, trio.current_time())
                    await self._rest_until(at)
            while self._connections:
                await self._connections.copy().pop().ended.wait()
            nursery.cancel_scope.cancel()

    async def _rest_until(self, time: float) -> None:
        with trio.move_on_at(time):
            await self._unused.wait()

    async def _connect(self, nursery: trio.Nursery) -> bool:
        """Use one connection as long as it takes calls; False if it was of no use.

        It was if it lasted or a call succeeded: an endpoint that accepts connections only to end
        them is to be backed off from like one that refuses them.
        """
        transport = await self._dial()
        if transport is None:
            return False
        connection = ClientConnection(transport, self._manner.limits, self._timeouts)
        self._connections.add(connection)
        await nursery.start(self._run_connection, connection)
        with trio.move_on_after(_ESTABLISH_WITHIN) as waiting:
            await connection.established.wait()
        if waiting.cancelled_caught:
            connection.shut("the peer accepted a connection and did not speak HTTP/2")
        established, useful = connection.usable, False
        if established and not self._unused.is_set():
            self.connection, self.streams, self.error = connection, connection.streams, ""
            self.entry.note("connected")
            self._changed()
            since = trio.current_time()
            await connection.spent.wait()
            lasted = trio.current_time() - since >= _LASTING
            useful = lasted or calls_of(connection).succeeded > 0
            self._note_end(connection)
            self.connection, self.streams = None, _NO_STREAMS
            self._changed()
        connection.retire()
        if not established:
            self._fail(connection.loss)
        return useful

    def _note_end(self, connection: ClientConnection) -> None:
        why = connection.loss if connection.closed else "it takes no more calls"
        self.entry.note(f"its connection is given up: {why}")

    async def _dial(self) -> Transport | None:
        with trio.CancelScope() as self._dialing:
            try:
                endpoint = self.endpoint
                async with self._dials.slot(endpoint, local=self._is_local):
                    self._dialing.deadline = trio.current_time() + _DIAL_WITHIN
                    return await dial(
                        endpoint.address,
                        self._manner.tls or endpoint.tls,
                        endpoint.owners,
                        patience=_BACKLOG_WAIT,
                    )
            except (OSError, ValueError) as exc:
                reason = getattr(exc, "strerror", None) or str(exc)
                if getattr(exc, "errno", None) in OUT_OF_RESOURCES:
                    reason += " in this process (see `ulimit -n`)"
                self._fail(reason)
        if self._dialing.cancelled_caught and not self._unused.is_set():
            self._fail(f"it did not answer within {_DIAL_WITHIN:g} s")
        return None

    async def _run_connection(
        self,
        connection: ClientConnection,
        *,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        try:
            await connection.run(task_status=task_status)
        finally:
            self._connections.discard(connection)
            self.past.add(calls_in_the_end(connection))
            connection.ended.set()

    def _fail(self, error: str) -> None:
        """Tell why calls wait, once for each reason in a row."""
        if error != self.error:
            self.entry.note(f"cannot be used: {error}", census.Severity.WARNING)
            _log.info("%s cannot be used: %s; trying again", self.endpoint.address, error)
            self.error = error
            self._changed()

    async def _keep_house(self) -> None:
        due = trio.current_time() + _HOUSEKEEPING
        while True:
            await next_beat(_HOUSEKEEPING)
            now = trio.current_time()
            # Where this process stood still, what servers have sent is read first.
            if now < due + _HOUSEKEEPING:
                for connection in list(self._connections):
                    connection.keep_house(now)
            due = now + _HOUSEKEEPING
