"""A Unix socket in front of another one, which counts the connections that it passes on."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import trio

from meshtrio.http2 import frames
from meshtrio.http2.errors import ErrorCode
from meshtrio.transport.listener import unix_listener

REJECTION = frames.goaway(0, ErrorCode.ENHANCE_YOUR_CALM, b"too many connections")


class CountingRelay:
    """Passes connections on to `target`."""

    def __init__(self, target: Path) -> None:
        self.accepted = 0
        """Number of connections that clients have made."""
        self.rejected = 0
        """Number of the next connections that get a GOAWAY, as from a server with too many."""
        self._target = target

    async def serve(self, client: trio.SocketStream) -> None:
        self.accepted += 1
        if self.rejected:
            self.rejected -= 1
            with contextlib.suppress(trio.BrokenResourceError):
                await client.send_all(frames.settings({}) + REJECTION)
            await client.aclose()
            return
        with contextlib.suppress(OSError):
            server = await trio.open_unix_socket(str(self._target))
            async with client, server, trio.open_nursery() as nursery:
                nursery.start_soon(self._copy, client, server)
                await self._copy(server, client)
                nursery.cancel_scope.cancel()

    @staticmethod
    async def _copy(source: trio.SocketStream, to: trio.SocketStream) -> None:
        with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            async for data in source:
                await to.send_all(data)
            await to.send_eof()


@asynccontextmanager
async def relay_to(target: Path, path: Path) -> AsyncIterator[CountingRelay]:
    """Accept connections on `path` for `target` during the block."""
    relay = CountingRelay(target)
    with unix_listener(path) as sock:
        listener = trio.SocketListener(trio.socket.from_stdlib_socket(sock))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.serve_listeners, relay.serve, [listener])
            yield relay
            nursery.cancel_scope.cancel()
