"""grpclib, on asyncio."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

from echo.v1 import echo_pb2 as pb

from tests.benchmarks.peers.async_peer import AsyncioPeer, Calls, Receive, Send
from tests.benchmarks.peers.base import (
    DEADLINE,
    SERVICE,
    TlsFiles,
    call_metadata,
    tls_files,
)


class Grpclib(AsyncioPeer):
    name = "grpclib"

    def serve(self, address: str) -> None:
        asyncio.run(self._serve(address))

    async def _serve(self, address: str) -> None:
        from grpclib.server import Server

        server = Server([_GrpclibEcho()])
        await server.start(path=address, ssl=_server_context())
        await server.wait_closed()

    @asynccontextmanager
    async def channel(self, address: str) -> AsyncIterator[Any]:
        from grpclib.client import Channel
        from grpclib.config import Configuration

        files, context = tls_files(), None
        if files:
            context = ssl.create_default_context(cafile=files.authority)
            context.set_alpn_protocols(["h2"])
        config = Configuration(ssl_target_name_override=TlsFiles.SERVER_NAME)
        async with Channel(path=address, ssl=context, config=config) as channel:
            yield channel

    @asynccontextmanager
    async def calls(self, address: str) -> AsyncIterator[Calls]:
        from grpclib.client import (
            StreamStreamMethod,
            StreamUnaryMethod,
            UnaryStreamMethod,
            UnaryUnaryMethod,
        )

        async with self.channel(address) as channel:
            echo = UnaryUnaryMethod(channel, SERVICE + "Echo", pb.EchoRequest, pb.EchoReply)
            repeat = UnaryStreamMethod(channel, SERVICE + "Repeat", pb.RepeatRequest, pb.EchoReply)
            join = StreamUnaryMethod(channel, SERVICE + "Join", pb.EchoRequest, pb.EchoReply)
            chat = StreamStreamMethod(channel, SERVICE + "Chat", pb.EchoRequest, pb.EchoReply)
            yield Calls(
                echo=echo,
                echo_with_deadline=partial(echo, timeout=DEADLINE),
                echo_with_metadata=lambda request: echo(request, metadata=call_metadata()),
                repeat=partial(_repeat, repeat),
                join=partial(_join, join),
                chat=partial(_chat, chat),
                open_chat=partial(_open_chat, chat),
            )


def _server_context() -> ssl.SSLContext | None:
    files = tls_files()
    if files is None:
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(files.certificate, files.key)
    context.set_alpn_protocols(["h2"])
    return context


# A method of grpclib takes a list and gives one; streams are written with `open`, as here.


async def _repeat(method: Any, request: Any) -> AsyncIterator[Any]:
    async with method.open() as stream:
        await stream.send_message(request, end=True)
        async for reply in stream:
            yield reply


async def _send_all(stream: Any, requests: AsyncIterator[Any]) -> None:
    async for request in requests:
        await stream.send_message(request)
    await stream.end()


async def _join(method: Any, requests: AsyncIterator[Any]) -> Any:
    async with method.open() as stream:
        await _send_all(stream, requests)
        return await stream.recv_message()


async def _chat(method: Any, requests: AsyncIterator[Any]) -> AsyncIterator[Any]:
    async with method.open() as stream:
        await stream.send_request()
        sender = asyncio.create_task(_send_all(stream, requests))
        async for reply in stream:
            yield reply
        await sender


@asynccontextmanager
async def _open_chat(method: Any) -> AsyncIterator[tuple[Send, Receive]]:
    async with method.open() as stream:
        yield stream.send_message, stream.recv_message
        await stream.cancel()


class _GrpclibEcho:
    async def Echo(self, stream: Any) -> None:
        request = await stream.recv_message()
        await stream.send_message(pb.EchoReply(message=request.message))

    async def Repeat(self, stream: Any) -> None:
        request = await stream.recv_message()
        reply = pb.EchoReply(message=request.message)
        for _ in range(request.count):
            await stream.send_message(reply)

    async def Join(self, stream: Any) -> None:
        count = 0
        async for _ in stream:
            count += 1
        await stream.send_message(pb.EchoReply(instance=count))

    async def Chat(self, stream: Any) -> None:
        async for request in stream:
            await stream.send_message(pb.EchoReply(message=request.message))

    async def Slow(self, stream: Any) -> None:
        request = await stream.recv_message()
        await asyncio.sleep(request.seconds)
        await stream.send_message(pb.EchoReply())

    def __mapping__(self) -> dict[str, Any]:
        from grpclib.const import Cardinality, Handler

        def handler(name: str, kind: str, request_type: Any) -> Any:
            return Handler(getattr(self, name), Cardinality[kind], request_type, pb.EchoReply)

        return {
            SERVICE + "Echo": handler("Echo", "UNARY_UNARY", pb.EchoRequest),
            SERVICE + "Slow": handler("Slow", "UNARY_UNARY", pb.SlowRequest),
            SERVICE + "Repeat": handler("Repeat", "UNARY_STREAM", pb.RepeatRequest),
            SERVICE + "Join": handler("Join", "STREAM_UNARY", pb.EchoRequest),
            SERVICE + "Chat": handler("Chat", "STREAM_STREAM", pb.EchoRequest),
        }
