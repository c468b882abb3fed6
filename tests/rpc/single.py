"""Calls over one connection that somebody else opened: no endpoints, no balancing, no retry."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from meshtrio.errors import ConnectionLostError
from meshtrio.rpc.calls import Target
from meshtrio.rpc.client import ClientConnection
from meshtrio.rpc.transport import SocketTransport
from meshtrio.structured import open_nursery_of_one


class SingleConnection:
    """Picks the one connection there is."""

    def __init__(self, connection: ClientConnection, authority: str) -> None:
        self._target = Target(connection, None)
        self.authority = authority
        self.scheme = "http"

    def pick_ready(self) -> Target | None:
        return self._target if self._target.connection.usable else None

    async def pick(self) -> Target:
        """Raises ConnectionLostError once the connection is gone."""
        if not self._target.connection.usable:
            raise ConnectionLostError(self._target.connection.loss)
        return self._target

    async def explain(self, target: Target, failure: ConnectionLostError) -> Exception:
        return failure


@asynccontextmanager
async def over_socket(
    sock: socket.socket, authority: str = "localhost"
) -> AsyncIterator[SingleConnection]:
    """Speak gRPC as a client on a connected socket, which is taken over, for the block."""
    connection = ClientConnection(SocketTransport(sock))
    async with open_nursery_of_one() as nursery:
        await nursery.start(connection.run)
        try:
            yield SingleConnection(connection, authority)
        finally:
            nursery.cancel_scope.cancel()
