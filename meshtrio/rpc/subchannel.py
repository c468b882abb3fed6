"""One endpoint as a channel sees it: a connection that is kept up for as long as it is listed."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

import attrs
import trio

from meshtrio.rpc.client import ClientConnection
from meshtrio.rpc.endpoint import RECONNECT, Departure, Endpoint, connect
from meshtrio.wire.limits import Limits


@attrs.define(eq=False)
class Subchannel:
    """Runs in its channel's nursery; `changed` is called when its readiness may have changed."""

    endpoint: Endpoint
    changed: Callable[[], None]
    limits: Limits | None = None
    rng: Random = attrs.field(factory=Random)
    connection: ClientConnection | None = None
    last_error: str = ""
    departure: Departure | None = None
    departed: trio.Event = attrs.field(factory=trio.Event)
    """Set when the endpoint is listed no more; `departure` then says why, where that is known."""

    @property
    def ready(self) -> bool:
        connection = self.connection
        return connection is not None and connection.usable and not self.departed.is_set()

    async def run(self) -> None:
        """Connect, and connect again with backoff, until `leave` is called or this is cancelled."""
        failures = 0
        while not self.departed.is_set():
            try:
                sock = await connect(self.endpoint.address)
            except OSError as exc:
                self.last_error = exc.strerror or str(exc)
            else:
                failures = 0
                await self._use(ClientConnection(sock, self.limits))
            failures += 1
            with trio.move_on_after(RECONNECT.delay(failures, self.rng)):
                await self.departed.wait()

    async def _use(self, connection: ClientConnection) -> None:
        self.connection = connection
        if self.departed.is_set():
            connection.retire()
        self.changed()
        try:
            await connection.run()
        finally:
            self.connection = None
            self.last_error = "the connection was closed"
            self.changed()

    def leave(self, departure: Departure | None) -> None:
        """The endpoint is listed no more: calls under way may finish, no new one is taken."""
        self.departure = departure
        self.departed.set()
        if self.connection is not None:
            self.connection.retire()
        self.changed()
