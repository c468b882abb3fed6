"""What the gateway keeps for the end of a read or for the next call, and must not mix up."""

from __future__ import annotations

import types
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

import trio
from echo.v1.echo_grpc import EchoServiceStub
from echo.v1.echo_pb2 import EchoReply, EchoRequest

from meshtrio.client.channel import Channel
from meshtrio.discovery.endpoint import ExitInfo
from meshtrio.gateway.route import Route
from meshtrio.grpc.framing import frame_message
from meshtrio.grpc.header_builder import PSEUDO_HEADERS
from meshtrio.grpc.headers import parse_request_headers
from meshtrio.http2 import frames
from meshtrio.http2.frame_reader import FrameReader
from meshtrio.http2.frames import FrameType
from meshtrio.http2.hpack import encoder
from meshtrio.http2.hpack.decoder import HeaderDecoder
from meshtrio.transport.peer import Peer
from tests.support.connection_pairs import CallbackServicer, echo_reply, echo_request
from tests.support.gateways import run_gateway, server_with_reflection
from tests.support.raw_calls import connect_raw_socket, encode_request_headers, send_all

SERVICE = {"raw": ["echo.v1.EchoService"]}
HEAD = encoder.encode([(b":status", b"200"), (b"content-type", b"application/grpc")])
STATUS = encoder.encode([(b"grpc-status", b"0")])
Part = tuple[int, int, bytes]
"""Type, flags and payload of a frame."""
REPLY = frame_message(EchoReply(message="hi").SerializeToString())


async def read_frame(sock: trio.socket.SocketType, reader: FrameReader) -> Part:
    """Read until a frame of stream 1 is there; fail if several come at once."""
    while True:
        data = await sock.recv(65_536)
        assert data, "closed"
        found = [(kind, flags, payload) for kind, flags, n, payload in reader.feed(data) if n]
        if found:
            (frame,) = found
            return frame


@asynccontextmanager
async def serve_parts(path: Path, parts: list[Part], next_part: Any) -> AsyncIterator[None]:
    """Serve a plugin that answers a call of Echo part by part, as `next_part` allows."""
    listener = trio.socket.socket(trio.socket.AF_UNIX)
    await listener.bind(str(path))
    listener.listen()

    async def serve(stream: trio.SocketStream) -> None:
        reader = FrameReader(expect_preface=True, max_frame_size=2**24 - 1, max_block_size=2**20)
        await stream.send_all(frames.settings({}))
        while data := await stream.receive_some():
            for _, _, stream_id, payload in reader.feed(data):
                if b"EchoService/Echo" in payload:  # The gateway may ask for reflection, too.
                    for kind, flags, part in parts:
                        await stream.send_all(frames.encode_frame(kind, flags, stream_id, part))
                        await next_part.receive()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, serve, [trio.SocketListener(listener)])
        yield
        nursery.cancel_scope.cancel()


async def test_each_part_of_a_response_goes_on_when_it_comes(short_dir: Path) -> None:
    allow, allowed = trio.open_memory_channel[None](0)
    parts: list[Part] = [
        (FrameType.HEADERS, frames.END_HEADERS, HEAD),
        (FrameType.DATA, 0, REPLY),
        (FrameType.HEADERS, frames.END_HEADERS | frames.END_STREAM, STATUS),
    ]
    request = frame_message(EchoRequest(message="hi").SerializeToString())
    call = frames.encode_frame(FrameType.HEADERS, 4, 1, encode_request_headers("Echo"))
    call += frames.encode_frame(FrameType.DATA, frames.END_STREAM, 1, request)
    reader = FrameReader(expect_preface=False, max_frame_size=2**24 - 1, max_block_size=2**20)
    path = short_dir / "raw.sock"
    async with run_gateway(short_dir, SERVICE) as behind, serve_parts(path, parts, allowed):
        with behind.register_endpoint("raw", path), trio.fail_after(30):
            async with connect_raw_socket(behind) as sock:
                await send_all(sock, call)
                seen = []
                for _ in parts:
                    seen.append(await read_frame(sock, reader))
                    await allow.send(None)
    assert [(kind, flags) for kind, flags, _ in seen] == [(part[0], part[1]) for part in parts]
    assert seen[1][2] == REPLY


async def test_clients_that_share_a_route_are_named_each_as_itself() -> None:
    def parse(*more: tuple[bytes, bytes]) -> Any:
        fields = [(b":method", b"POST"), (b":scheme", b"http"), (b":path", b"/a/B")]
        return parse_request_headers((*fields, (b"content-type", b"application/grpc"), *more))

    channel = cast("Channel", types.SimpleNamespace(authority="a"))
    first, second = (
        parse((b"traceparent", name), (b"grpc-timeout", b"%dS" % n))
        for n, name in ((5, b"one"), (7, b"two"))
    )
    assert first.common is second.common is not None
    route = Route.from_headers(first.common)
    for headers, uid, name in ((first, 1, b"one"), (second, 2, b"two"), (first, 1, b"one")):
        peer = Peer(uid=uid, pid=uid)
        block = route.encode_headers(channel, PSEUDO_HEADERS[0], peer, headers, 1e9)
        fields = dict(HeaderDecoder(2**20).decode(block.data, tuple))
        assert fields[b"x-mesh-forwarded"] == f"uid {uid} (pid {uid})".encode()
        assert fields[b"traceparent"] == name
        assert block.list_size == sum(len(k) + len(v) + 32 for k, v in fields.items())


async def test_calls_with_timeouts_keep_their_own_metadata(short_dir: Path) -> None:
    seen: list[tuple[float, dict[str, Any]]] = []

    async def echo(message: EchoRequest, request: Any) -> EchoReply:
        remaining = request.deadline - trio.current_time()
        seen.append((remaining, dict(request.custom_metadata)))
        return echo_reply(message.message)

    server = server_with_reflection(CallbackServicer(Echo=echo))
    async with run_gateway(short_dir, a=server) as behind:
        stub = behind.channel.stub(EchoServiceStub)
        for timeout, user in ((50, "one"), (100, "two"), (200, "one")):
            with trio.fail_after(timeout):
                await stub.Echo(echo_request("hi"), metadata=[("user", user)])
    assert [found["user"] for _, found in seen] == ["one", "two", "one"]
    for (remaining, _), timeout in zip(seen, (50, 100, 200), strict=True):
        assert timeout / 2 < remaining <= timeout


async def test_a_route_follows_its_service(short_dir: Path) -> None:
    """Another service takes the gRPC service over: calls with the same headers go there."""
    configured: dict[str, list[str]] = {"a": ["echo.v1.EchoService"]}

    async def from_a(message: EchoRequest) -> EchoReply:
        return echo_reply("a")

    async def from_b(message: EchoRequest) -> EchoReply:
        return echo_reply("b")

    servers = {
        name: server_with_reflection(CallbackServicer(Echo=each))
        for name, each in (("a", from_a), ("b", from_b))
    }
    async with run_gateway(short_dir, configured, **servers) as behind:
        stub = behind.channel.stub(EchoServiceStub)
        with trio.fail_after(30):
            for _ in range(3):
                assert (await stub.Echo(echo_request("?"))).message == "a"
            (endpoint,) = behind.registry.resolve("a").endpoints
            behind.registry.deregister("a", ExitInfo(endpoint.id, "over"))
            behind.registry.remove_service("a")
            configured.clear()
            assert (await stub.Echo(echo_request("?"))).message == "b"
