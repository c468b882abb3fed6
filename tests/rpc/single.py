"""Calls over one connection that somebody else opened: no endpoints, no balancing, no retry."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from meshtrio.errors import ConnectionLostError
from meshtrio.policies.service_config import ServiceConfig
from meshtrio.rpc.attempt import ANY, Target, Wish
from meshtrio.rpc.client import ClientConnection
from meshtrio.rpc.transport import SocketTransport
from meshtrio.structured import open_nursery_of_one


class SingleConnection:
    """Picks the one connection there is."""

    def __init__(self, connection: ClientConnection, authority: str) -> None:
        self._target = Target(connection, None)
        self.authority = authority
        self.scheme = "http"
        self.name = authority
        self.config = ServiceConfig()
        self.interceptors: Any = ()
        self.metadata: Any = ()
        self.throttle: Any = None
        self.hash_header: str | None = None
        self.observes = self.counts = False

    def spawn(self, task: Any, *args: object) -> None:
        nursery = self._target.connection._nursery
        assert nursery is not None
        nursery.start_soon(task, *args)

    def record(self, target: Target, *, success: bool) -> None: ...

    def enter(self) -> None: ...

    def leave(self) -> None: ...

    def note_call(self) -> None: ...

    def may_retry(self) -> bool:
        return True

    def pick_ready(self, wish: Wish = ANY) -> Target | None:
        return self._target if self._target.connection.usable else None

    async def pick(self, wish: Wish = ANY) -> Target:
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
