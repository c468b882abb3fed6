"""One endpoint as a channel sees it: a connection that is kept up for as long as it is listed."""

from __future__ import annotations

import logging
import socket
import ssl
from collections.abc import Callable
from random import Random

import attrs
import trio

from meshtrio.rpc.calls import Target
from meshtrio.rpc.client import ClientConnection
from meshtrio.rpc.endpoint import RECONNECT, Departure, Endpoint, connect, host_of
from meshtrio.rpc.timeouts import Timeouts
from meshtrio.rpc.tls import TlsTransport
from meshtrio.rpc.transport import SocketTransport, Transport
from meshtrio.wire.limits import Limits

_log = logging.getLogger("meshtrio.rpc")

_ESTABLISH_WITHIN = 20.0
"""Seconds a server has to send its SETTINGS."""


@attrs.frozen
class Tls:
    """How to speak TLS to a server: its side of the context, and the name its certificate bears.

    By default that is the host of the address.
    """

    context: ssl.SSLContext
    server_hostname: str | None = None


@attrs.define(eq=False)
class Subchannel:
    """Runs in its channel's nursery; `changed` is called when its readiness may have changed."""

    endpoint: Endpoint
    changed: Callable[[], None]
    limits: Limits | None = None
    tls: Tls | None = None
    timeouts: Timeouts | None = None
    rng: Random = attrs.field(factory=Random)
    target: Target | None = None
    """The connection that takes calls now, as they are given it."""
    _last_error: str = ""
    departure: Departure | None = None
    departed: trio.Event = attrs.field(factory=trio.Event)
    """Set when the endpoint is listed no more; `departure` then says why, where that is known."""

    @property
    def ready(self) -> bool:
        target = self.target
        return target is not None and target.connection.usable and not self.departed.is_set()

    async def run(self) -> None:
        """Connect, and connect again with backoff, until `leave` is called or this is cancelled.

        A connection that takes no new calls is replaced at once; it finishes those it has beside
        its successor.
        """
        failures = 0
        async with trio.open_nursery() as nursery:
            while not self.departed.is_set():
                failures = 0 if await self._connect(nursery) else failures + 1
                with trio.move_on_after(RECONNECT.delay(max(failures, 1), self.rng)):
                    await self.departed.wait()

    async def _connect(self, nursery: trio.Nursery) -> bool:
        """Use one connection as long as it takes calls; False if it never got that far."""
        try:
            sock = await connect(self.endpoint.address)
        except OSError as exc:
            self._note(exc.strerror or str(exc))
            return False
        connection = ClientConnection(self._transport(sock), self.limits, self.timeouts)
        await nursery.start(connection.run)
        with trio.move_on_after(_ESTABLISH_WITHIN) as waiting:
            await connection.established.wait()
        if waiting.cancelled_caught:
            connection.shut("the peer accepted a connection and did not speak HTTP/2")
        established = connection.usable
        if established and not self.departed.is_set():
            self.target = Target(connection, self)
            self.changed()
            await connection.spent.wait()
            self.target = None
            self.changed()
        connection.retire()
        if not established:
            self._note(connection.loss)
        return established

    def _note(self, error: str) -> None:
        """Log why calls wait, once for each reason in a row."""
        if error != self._last_error:
            _log.info("%s cannot be used: %s; trying again", self.endpoint.address, error)
        self._last_error = error

    def _transport(self, sock: socket.socket) -> Transport:
        if self.tls is None:
            return SocketTransport(sock)
        hostname = self.tls.server_hostname or host_of(self.endpoint.address)
        return TlsTransport(sock, self.tls.context, server_side=False, server_hostname=hostname)

    def leave(self, departure: Departure | None) -> None:
        """The endpoint is listed no more: calls under way may finish, no new one is taken."""
        self.departure = departure
        self.departed.set()
        if self.target is not None:
            self.target.connection.retire()
        self.changed()
