"""Calls over one connection that the test opened."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from meshtrio.client.single import SingleConnection
from meshtrio.rpc.client import ClientConnection
from meshtrio.rpc.transport import SocketTransport
from meshtrio.structured import open_nursery_of_one


def over(connection: ClientConnection, authority: str = "x") -> SingleConnection:
    """A picker of one connection, whose calls are tasks of it."""
    return SingleConnection(connection, authority, connection._nursery)


@asynccontextmanager
async def over_socket(
    sock: socket.socket, authority: str = "localhost"
) -> AsyncIterator[SingleConnection]:
    """Speak gRPC as a client on a connected socket, which is taken over, for the block."""
    connection = ClientConnection(SocketTransport(sock))
    async with open_nursery_of_one() as nursery:
        await nursery.start(connection.run)
        try:
            yield over(connection, authority)
        finally:
            nursery.cancel_scope.cancel()
