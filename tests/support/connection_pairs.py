"""A client and a server on the two ends of a socket pair, in one trio run."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import attrs
import trio
from echo.v1.echo_grpc import EchoServiceServicer, EchoServiceStub
from echo.v1.echo_pb2 import EchoReply, EchoRequest

from meshtrio.discovery.endpoint import Endpoint, ServiceState
from meshtrio.http2 import frames
from meshtrio.http2.frame_reader import FrameReader
from meshtrio.http2.limits import Limits
from meshtrio.rpc.client_connection import ClientConnection
from meshtrio.rpc.server import Server
from meshtrio.rpc.server_connection import ServerConnection
from meshtrio.rpc.timeouts import Timeouts
from meshtrio.transport.transport import Transport
from meshtrio.util.concurrency import open_collapsing_nursery
from meshtrio.util.message_buffers import MESSAGE_BUFFERS
from tests.support.direct_channels import channel_over_connection

Handler = Callable[..., Any]


class CallbackServicer(EchoServiceServicer):
    """An echo servicer whose methods are given to it; what is not given is unimplemented."""

    def __init__(self, **handlers: Handler) -> None:
        for name, handler in handlers.items():
            setattr(self, name, handler)


@attrs.define
class ConnectionPair:
    """Both ends of a connection, and a stub that calls the server."""

    client: ClientConnection
    server: ServerConnection
    stub: Any
    sockets: tuple[socket.socket, socket.socket]

    def break_connection(self) -> None:
        """Break the connection, as a peer's death does."""
        self.sockets[1].shutdown(socket.SHUT_RDWR)

    def assert_nothing_left(self) -> None:
        """Assert that no stream is left on either side, and that each call is counted once."""
        for end in (self.client, self.server):
            assert end.streams == {}
            assert end._engine.open_stream_count == 0
            calls = end.statistics().calls
            assert calls.started == calls.succeeded + calls.failed

    async def wait_until_idle(self) -> None:
        """Wait until both sides have sent everything, and no task waits for another call.

        The task that keeps the memory of large messages for the next one is ended, too.
        """
        await trio.testing.wait_all_tasks_blocked(0.01)
        MESSAGE_BUFFERS.release()
        for _ in range(2):
            self.server.handler_tasks.end_unused()
        await trio.testing.wait_all_tasks_blocked(0.01)


def make_stub(client: ClientConnection, stub_class: type) -> Any:
    """A stub on a bare connection."""
    return stub_class(channel_over_connection(client, "localhost"))


@asynccontextmanager
async def connect_pair(
    *servicers: Any,
    server_limits: Limits | None = None,
    client_limits: Limits | None = None,
    timeouts: Timeouts | None = None,
    trusted_pid: int | None = None,
) -> AsyncIterator[ConnectionPair]:
    """Connect a client to a server of these servicers for the block."""
    ours, theirs = socket.socketpair()
    client = ClientConnection(Transport(ours), client_limits)
    serving = Server(*servicers, limits=server_limits, timeouts=timeouts)
    serving.trusted_pid = trusted_pid
    server = ServerConnection(Transport(theirs), serving)
    async with open_collapsing_nursery() as nursery:
        await nursery.start(server.run)
        await nursery.start(client.run)
        yield ConnectionPair(client, server, make_stub(client, EchoServiceStub), (ours, theirs))
        nursery.cancel_scope.cancel()


def echo_request(text: str) -> EchoRequest:
    return EchoRequest(message=text)


def echo_reply(text: str) -> EchoReply:
    return EchoReply(message=text)


async def echo_requests(*texts: str) -> AsyncIterator[EchoRequest]:
    for text in texts:
        yield echo_request(text)


def static_resolver(
    *endpoints: Endpoint,
) -> Callable[[Callable[[ServiceState], None]], Awaitable[None]]:
    """Return a resolver whose endpoints never change."""

    async def feed(update: Callable[[ServiceState], None]) -> None:
        update(ServiceState(endpoints))

    return feed


class RawPeer:
    """A client that sends bytes, for frames that a conforming engine would not send."""

    def __init__(self, sock: socket.socket, server: ServerConnection) -> None:
        self.sock = sock
        self.server = server
        self._reader = FrameReader(
            expect_preface=False, max_frame_size=2**24 - 1, max_block_size=2**20
        )

    async def send(self, data: bytes) -> None:
        """Send data, and wait until the server has handled it."""
        view = memoryview(data)
        while view:
            await trio.lowlevel.wait_writable(self.sock)
            view = view[self.sock.send(view) :]
        await trio.testing.wait_all_tasks_blocked(0.01)

    def read_frames(self) -> list[tuple[int, int, int, bytes]]:
        """Return the frames that the server has sent since the last call."""
        received = []
        with contextlib.suppress(BlockingIOError):
            while data := self.sock.recv(1_000_000):
                received += self._reader.feed(data)
        return received

    def assert_nothing_left(self) -> None:
        assert self.server.streams == {}
        assert self.server._engine.open_stream_count == 0


@asynccontextmanager
async def connect_raw_peer(
    *servicers: Any,
    limits: Limits | None = None,
    timeouts: Timeouts | None = None,
    preface: bytes = frames.PREFACE + frames.settings({}),
) -> AsyncIterator[RawPeer]:
    """A server of these servicers, and a raw peer that has sent its preface."""
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    server = ServerConnection(
        Transport(theirs), Server(*servicers, limits=limits, timeouts=timeouts)
    )
    with ours:
        async with open_collapsing_nursery() as nursery:
            await nursery.start(server.run)
            peer = RawPeer(ours, server)
            await peer.send(preface)
            yield peer
            nursery.cancel_scope.cancel()


async def run_timeouts_after(peer: RawPeer, seconds: float) -> list[Any]:
    """Keep house as if so much time had passed, and give the answers."""
    peer.server.check_timeouts(trio.current_time() + seconds)
    await trio.testing.wait_all_tasks_blocked(0.01)
    return peer.read_frames()
