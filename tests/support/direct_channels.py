"""Calls over one connection that the test opened."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from meshtrio.client.direct_channel import DirectChannel
from meshtrio.client.multicallable import make_multicallable
from meshtrio.rpc.client_connection import ClientConnection
from meshtrio.rpc.method import Method
from meshtrio.rpc.purerpc_compat import StubChannel
from meshtrio.transport.transport import Transport
from meshtrio.util.concurrency import open_collapsing_nursery


class StubbableChannel(DirectChannel, StubChannel):
    """A channel over one connection that generated stubs can be made for."""

    def make_multicallable(self, method: Method) -> Any:
        return make_multicallable(self, method)


def channel_over_connection(connection: ClientConnection, authority: str = "x") -> DirectChannel:
    """A channel over one connection, whose calls are tasks of it."""
    return StubbableChannel(connection, authority, connection._nursery)


@asynccontextmanager
async def channel_over_socket(
    sock: socket.socket, authority: str = "localhost"
) -> AsyncIterator[DirectChannel]:
    """Speak gRPC as a client on a connected socket, which is taken over, for the block."""
    connection = ClientConnection(Transport(sock))
    async with open_collapsing_nursery() as nursery:
        await nursery.start(connection.run)
        try:
            yield channel_over_connection(connection, authority)
        finally:
            nursery.cancel_scope.cancel()
