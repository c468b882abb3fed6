"""Timeouts that a channel sets for its connections, on Unix sockets too."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import purerpc
import pytest
import trio
from echo.v1.echo_grpc import EchoServiceStub

from meshtrio.client.channel import connect_to
from meshtrio.grpc.connection import GrpcConnection
from meshtrio.http2 import frames
from meshtrio.http2.connection import Role
from meshtrio.http2.events import RequestReceived
from meshtrio.http2.frames import FrameType
from meshtrio.http2.hpack import encoder
from meshtrio.rpc.timeouts import Timeouts
from tests.support.connection_pairs import echo_request
from tests.support.scripted_peer import RESPONSE_HEADERS

DATA = frames.encode_frame(FrameType.DATA, 0, 1, b"\0\0\0\0\5hi")


@asynccontextmanager
async def serve_raw(
    path: Path, serve: Callable[[trio.SocketStream], Awaitable[None]]
) -> AsyncIterator[str]:
    """Serve each connection to a Unix socket by a function, in the block; yields the address."""
    listener = trio.socket.socket(trio.socket.AF_UNIX)
    await listener.bind(str(path))
    listener.listen()
    async with trio.open_nursery() as nursery:
        listeners = [trio.SocketListener(listener)]
        await nursery.start(partial(trio.serve_listeners, serve, listeners))
        yield f"unix:{path}"
        nursery.cancel_scope.cancel()


async def receive_only(stream: trio.SocketStream) -> None:
    async for _ in stream:
        pass


async def stall(data: bytes, stream: trio.SocketStream) -> None:
    """Answer the first request by headers and some data, and nothing else."""
    server = GrpcConnection(Role.SERVER)
    await stream.send_all(server.data_to_send())
    async for received in stream:
        for event in server.receive_data(received):
            if isinstance(event, RequestReceived):
                server.send_headers(event.stream_id, encoder.encode(RESPONSE_HEADERS))
                await stream.send_all(server.data_to_send() + data)


async def call(address: str, timeouts: Timeouts) -> None:
    with trio.fail_after(15):
        async with connect_to(address, timeouts=timeouts) as channel:
            stub = channel.stub(EchoServiceStub)
            await stub.Echo(echo_request(""), wait_for_ready=False)


async def test_a_server_that_sends_no_settings_is_unavailable(short_dir: Path) -> None:
    async with serve_raw(short_dir / "s", receive_only) as address:
        text = r"the peer did not speak HTTP/2 within 0\.25 s"
        with pytest.raises(purerpc.UnavailableError, match=text):
            await call(address, Timeouts(handshake=0.25))


async def test_a_frame_that_is_not_finished_closes_the_connection(short_dir: Path) -> None:
    async with serve_raw(short_dir / "s", partial(stall, DATA[:-1])) as address:
        text = r"a frame was not finished within 0\.25 s"
        with pytest.raises(purerpc.UnavailableError, match=text):
            await call(address, Timeouts(frame=0.25))


async def test_a_message_that_is_not_finished_fails_its_call(short_dir: Path) -> None:
    async with serve_raw(short_dir / "s", partial(stall, DATA)) as address:
        text = r"a message was not finished within 0\.25 s"
        with pytest.raises(purerpc.ResourceExhaustedError, match=text):
            await call(address, Timeouts(message=0.25))
