"""A server that drains, shuts down or is cancelled loses no call."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import pytest
import trio
from echo.v1.echo_pb2 import EchoReply, EchoRequest

from meshtrio.rpc.server import Server
from meshtrio.transport.listener import unix_listener
from meshtrio.util.concurrency import open_collapsing_nursery
from tests.support.connection_pairs import CallbackServicer
from tests.support.frame_client import (
    GOAWAY,
    HEADERS,
    RST_STREAM,
    FrameClient,
    connect_frame_client,
)


async def echo(message: EchoRequest) -> EchoReply:
    await trio.lowlevel.checkpoint()
    return EchoReply(message=message.message)


@asynccontextmanager
async def serve_on_path(path: Path) -> AsyncIterator[tuple[Server, trio.CancelScope]]:
    server = Server(CallbackServicer(Echo=echo))
    with unix_listener(path) as listener:
        async with open_collapsing_nursery() as nursery:
            await nursery.start(server.serve, listener)
            yield server, nursery.cancel_scope
            nursery.cancel_scope.cancel()


@contextmanager
def connect_without_accept(path: Path) -> Iterator[FrameClient]:
    """A client whose call is sent before the server's task has had a chance to accept it."""
    client = FrameClient.connect(path)
    with client.sock:
        yield client


async def ended_with_one_in_the_backlog(
    path: Path, end: Callable[[Server], Awaitable[object]]
) -> FrameClient:
    """End a server that has a connection with a request, which it has not accepted yet."""
    async with serve_on_path(path) as (server, _):
        await trio.testing.wait_all_tasks_blocked()
        with connect_without_accept(path) as client:
            client.start_call_now(1)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(client.read_to_end)
                await end(server)
    return client


async def test_a_connection_in_the_backlog_is_served_by_a_server_that_drains(
    short_dir: Path,
) -> None:
    async def drain(server: Server) -> None:
        assert await server.drain(60) == ()

    client = await ended_with_one_in_the_backlog(short_dir / "s", drain)
    assert len(client.frames_of_type(HEADERS)) == 2  # head and trailers
    assert client.frames_of_type(GOAWAY)


async def test_a_connection_in_the_backlog_is_refused_by_a_server_that_shuts_down(
    short_dir: Path,
) -> None:
    client = await ended_with_one_in_the_backlog(short_dir / "s", lambda each: each.shut_down(0))
    assert client.frames_of_type(HEADERS) == []
    assert {goaway.words for goaway in client.frames_of_type(GOAWAY)} == {(0, 0)}


async def test_nobody_can_connect_once_it_drains(short_dir: Path) -> None:
    path = short_dir / "s"
    async with serve_on_path(path) as (server, _):
        await server.drain(60)
        with socket.socket(socket.AF_UNIX) as sock, pytest.raises(ConnectionRefusedError):
            sock.connect(str(path))


async def test_a_request_that_a_cancelled_server_has_not_read_is_above_the_last_stream(
    short_dir: Path,
) -> None:
    path = short_dir / "s"
    async with serve_on_path(path) as (_, scope):
        async with connect_frame_client(path) as client:
            await client.start_call(1)
            while len(client.frames_of_type(HEADERS)) < 2:
                await client.read_some()
            client.start_call_now(3)
            scope.cancel()
            with trio.CancelScope(shield=True):
                await trio.lowlevel.checkpoint()
            with contextlib.suppress(ConnectionResetError), trio.CancelScope(shield=True):
                await client.read_to_end()
    assert [goaway.words for goaway in client.frames_of_type(GOAWAY)] == [(1, 0)]
    assert client.frames_of_type(RST_STREAM) == []
    assert {head.stream for head in client.frames_of_type(HEADERS)} == {1}


async def test_connections_stay_when_a_server_moves_to_another_socket(short_dir: Path) -> None:
    first, second = short_dir / "a", short_dir / "b"
    async with serve_on_path(first) as (server, _):
        async with connect_frame_client(first) as accepted:
            await accepted.start_call(1)
            while len(accepted.frames_of_type(HEADERS)) < 2:
                await accepted.read_some()
            with connect_without_accept(first) as unseen, unix_listener(second) as listener:
                server.replace_listener(listener)
                with socket.socket(socket.AF_UNIX) as sock, pytest.raises(ConnectionRefusedError):
                    sock.connect(str(first))
                async with connect_frame_client(second) as later:
                    for client, stream in ((accepted, 3), (unseen, 1), (later, 1)):
                        await client.start_call(stream)
                        while (
                            len([f for f in client.frames_of_type(HEADERS) if f.stream == stream])
                            < 2
                        ):
                            await client.read_some()
                    assert [
                        client.frames_of_type(GOAWAY) for client in (accepted, unseen, later)
                    ] == [[]] * 3
