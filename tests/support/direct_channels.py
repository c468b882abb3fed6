"""Calls over one connection that the test opened."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from meshtrio.client.direct_channel import DirectChannel
from meshtrio.rpc.client_connection import ClientConnection
from meshtrio.transport.transport import SocketTransport
from meshtrio.util.concurrency import open_collapsing_nursery


def channel_over_connection(connection: ClientConnection, authority: str = "x") -> DirectChannel:
    """A picker of one connection, whose calls are tasks of it."""
    return DirectChannel(connection, authority, connection._nursery)


@asynccontextmanager
async def channel_over_socket(
    sock: socket.socket, authority: str = "localhost"
) -> AsyncIterator[DirectChannel]:
    """Speak gRPC as a client on a connected socket, which is taken over, for the block."""
    connection = ClientConnection(SocketTransport(sock))
    async with open_collapsing_nursery() as nursery:
        await nursery.start(connection.run)
        try:
            yield channel_over_connection(connection, authority)
        finally:
            nursery.cancel_scope.cancel()
