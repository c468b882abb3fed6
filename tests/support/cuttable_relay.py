"""A TCP relay in front of a server: a network that can be cut, or that loses all packets."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio


class CuttableRelay:
    """Passes connections on to a port of loopback, as long as the network works."""

    def __init__(self, target_port: int, listener: trio.SocketListener) -> None:
        self._target_port = target_port
        self.port: int = listener.socket.getsockname()[1]
        """The port that clients connect to."""
        self._works = trio.Event()
        self._works.set()
        self._is_cut = False
        self._connections: set[trio.CancelScope] = set()

    def cut(self) -> None:
        """Close all connections, and new ones at once."""
        self._is_cut = True
        for scope in self._connections:
            scope.cancel()

    def lose_packets(self) -> None:
        """Pass nothing on, without closing a connection."""
        self._works = trio.Event()

    def repair(self) -> None:
        """Work again. Connections that have lost packets go on, as TCP's do."""
        self._works.set()
        self._is_cut = False

    async def serve(self, client: trio.SocketStream) -> None:
        if self._is_cut:
            await client.aclose()
            return
        async with client, trio.open_nursery() as nursery:
            self._connections.add(nursery.cancel_scope)
            try:
                server = await trio.open_tcp_stream("127.0.0.1", self._target_port)
                async with server:
                    nursery.start_soon(self._copy, client, server)
                    await self._copy(server, client)
            except OSError:
                pass  # The server is down.
            finally:
                self._connections.discard(nursery.cancel_scope)
                nursery.cancel_scope.cancel()

    async def _copy(self, source: trio.SocketStream, to: trio.SocketStream) -> None:
        with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            async for data in source:
                await self._works.wait()
                await to.send_all(data)
            await to.send_eof()


@asynccontextmanager
async def relay_to_port(target_port: int) -> AsyncIterator[CuttableRelay]:
    """Accept connections for a port of loopback during the block."""
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    relay = CuttableRelay(target_port, listener)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, relay.serve, [listener])
        yield relay
        nursery.cancel_scope.cancel()
