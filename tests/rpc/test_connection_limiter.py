"""Limits on connections: of a process, a host, a client certificate, and of all together."""

from __future__ import annotations

import contextlib
import logging
import os
import resource
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path

import purerpc
import pytest
import trio
import trustme
from echo.v1.echo_grpc import EchoServiceStub

from meshtrio.client.channel import Channel, open_channel
from meshtrio.discovery.endpoint import Endpoint
from meshtrio.http2 import frames
from meshtrio.http2.frame_reader import FrameReader
from meshtrio.http2.limits import Limits
from meshtrio.rpc.server import Server
from meshtrio.util.concurrency import open_collapsing_nursery
from meshtrio.util.tls_config import ClientTlsConfig
from tests.support.connection_pairs import CallbackServicer, echo_request, static_resolver
from tests.support.handlers import handle_echo
from tests.support.servers import serve_on_socket
from tests.support.tls import client_tls, server_context

GOAWAY = 7


@asynccontextmanager
async def serve_on_tcp_port(
    server: Server, context: ssl.SSLContext | None = None
) -> AsyncIterator[int]:
    listener = socket.create_server(("127.0.0.1", 0))
    port = listener.getsockname()[1]
    async with open_collapsing_nursery() as nursery:
        await nursery.start(partial(server.serve, listener, ssl_context=context))
        yield port
        nursery.cancel_scope.cancel()


def server(**limits: int) -> Server:
    return Server(CallbackServicer(Echo=handle_echo), limits=Limits(**limits))


async def read_rejection(stream: trio.SocketStream | trio.SSLStream[trio.SocketStream]) -> str:
    """Return the reason that a server rejects a new connection for; "" if it accepts it."""
    reader = FrameReader(expect_preface=False, max_frame_size=2**24 - 1, max_block_size=2**20)
    with trio.fail_after(10):
        # As real clients do, it sends its preface before it reads.
        with contextlib.suppress(trio.BrokenResourceError):
            await stream.send_all(frames.PREFACE + frames.settings({}))
        while True:
            data = await stream.receive_some(65536)
            assert data, "the connection was closed without a reason"
            for kind, flags, _, payload in reader.feed(data):
                if kind == GOAWAY:
                    assert int.from_bytes(payload[4:8], "big") == 11  # ENHANCE_YOUR_CALM
                    return payload[8:].decode()
                if kind == 4 and flags == frames.ACK:
                    return ""


async def test_connections_of_one_process_are_limited(
    short_dir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    path = short_dir / "s"
    async with serve_on_socket(path, server(max_connections_per_peer=3)):
        async with AsyncExitStack() as stack:
            kept = [
                await stack.enter_async_context(await trio.open_unix_socket(path)) for _ in range(3)
            ]
            assert [await read_rejection(each) for each in kept] == [""] * 3
            for _ in range(3):
                async with await trio.open_unix_socket(path) as stream:
                    assert await read_rejection(stream) == (
                        "too many connections: the server accepts 3 of one process "
                        "(max_connections_per_peer)"
                    )
            (line,) = [r.getMessage() for r in caplog.records if r.name == "meshtrio.rpc"]
            assert line.startswith(f"connection limit reached for process {os.getpid()}: 3 (max_")
            await kept[0].aclose()
            await trio.testing.wait_all_tasks_blocked(0.02)
            async with await trio.open_unix_socket(path) as stream:
                assert await read_rejection(stream) == ""


async def test_connections_of_one_host_are_limited_where_no_certificate_is_shown() -> None:
    async with (
        serve_on_tcp_port(server(max_connections_per_peer=2)) as port,
        AsyncExitStack() as stack,
    ):
        for _ in range(2):
            stream = await trio.open_tcp_stream("127.0.0.1", port)
            await stack.enter_async_context(stream)
            assert await read_rejection(stream) == ""
        for _ in range(3):
            async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
                reason = await read_rejection(stream)
                assert "accepts 2 of one host (max_connections_per_peer)" in reason
        # Another address of this machine is another host.
        local = ("127.0.0.2", 0)
        with socket.create_connection(("127.0.0.1", port), source_address=local) as sock:
            sock.setblocking(False)
            other = trio.SocketStream(trio.socket.from_stdlib_socket(sock))
            assert await read_rejection(other) == ""


async def test_connections_are_limited_in_all() -> None:
    async with serve_on_tcp_port(server(max_connections=2)) as port, AsyncExitStack() as stack:
        for _ in range(2):
            stream = await trio.open_tcp_stream("127.0.0.1", port)
            await stack.enter_async_context(stream)
            assert await read_rejection(stream) == ""
        async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
            assert "accepts 2 of one host (max_connections)" in await read_rejection(stream)
        local = ("127.0.0.2", 0)
        with socket.create_connection(("127.0.0.1", port), source_address=local) as sock:
            sock.setblocking(False)
            other = trio.SocketStream(trio.socket.from_stdlib_socket(sock))
            assert "accepts 2 in all (max_connections)" in await read_rejection(other)


async def test_file_descriptors_limit_connections_too() -> None:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (5, before[1]))
    try:
        few = server()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    async with serve_on_tcp_port(few) as port, AsyncExitStack() as stack:
        for _ in range(2):
            stream = await trio.open_tcp_stream("127.0.0.1", port)
            await stack.enter_async_context(stream)
            assert await read_rejection(stream) == ""
        async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
            assert "(the limit of 5 file descriptors)" in await read_rejection(stream)


async def test_connections_are_counted_by_client_certificate() -> None:
    """Clients of one host with certificates of their own do not share a limit."""
    ca = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    ca.issue_cert("localhost").configure_cert(context)
    context.verify_mode = ssl.CERT_REQUIRED
    ca.configure_trust(context)
    clients = []
    for name in ("a", "b"):
        client = ssl.create_default_context()
        client.set_alpn_protocols(["h2"])
        ca.configure_trust(client)
        ca.issue_cert(f"{name}@example.org", common_name=name).configure_cert(client)
        clients.append(client)

    async with (
        serve_on_tcp_port(server(max_connections_per_peer=2), context) as port,
        AsyncExitStack() as stack,
    ):

        async def connect(client: ssl.SSLContext) -> str:
            plain = await trio.open_tcp_stream("127.0.0.1", port)
            stack.push_async_callback(trio.aclose_forcefully, plain)
            stream = trio.SSLStream(plain, client, server_hostname="localhost")
            return await read_rejection(stream)

        for client in clients:
            assert [await connect(client) for _ in range(2)] == ["", ""]
        for client in clients:
            reason = await connect(client)
            assert reason == (
                "too many connections: the server accepts 2 of one certificate "
                "(max_connections_per_peer)"
            )


@asynccontextmanager
async def channel(address: str, tls: ClientTlsConfig | None = None) -> AsyncIterator[Channel]:
    async with open_channel("x", static_resolver(Endpoint(address, address)), tls=tls) as found:
        yield found


@pytest.mark.parametrize("encrypted", [False, True])
async def test_our_client_says_why_it_is_rejected(encrypted: bool) -> None:
    context = server_context() if encrypted else None
    tls = client_tls() if encrypted else None
    async with (
        serve_on_tcp_port(server(max_connections_per_peer=1), context) as port,
        channel(f"tcp:127.0.0.1:{port}", tls) as first,
    ):
        stub = first.stub(EchoServiceStub)
        assert (await stub.Echo(echo_request("hi"))).message == "hi"
        # Not the same address, so it is another connection.
        async with channel(f"tcp:localhost:{port}", tls) as second:
            # Before a handshake there is no telling a client that speaks TLS.
            expected = "handshake" if encrypted else "accepts 1 of one host"
            with pytest.raises(purerpc.UnavailableError, match=expected):
                await second.stub(EchoServiceStub).Echo(echo_request("hi"), wait_for_ready=False)
        assert (await stub.Echo(echo_request("hi"))).message == "hi"
