"""grpclib, on asyncio."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from echo.v1 import echo_pb2 as pb

from tests.benchmarks.peers.base import (
    HUGE,
    SERVICE,
    SMALL,
    AsyncioPeer,
    LoopTimer,
    Measurement,
)


class Grpclib(AsyncioPeer):
    name = "grpclib"

    def serve(self, address: str) -> None:
        asyncio.run(self._serve(address))

    async def _serve(self, address: str) -> None:
        from grpclib.server import Server

        server = Server([_GrpclibEcho()])
        await server.start(path=address)
        await server.wait_closed()

    @asynccontextmanager
    async def channel(self, address: str) -> AsyncIterator[Any]:
        from grpclib.client import Channel

        async with Channel(path=address) as channel:
            yield channel

    async def unary(self, address: str, request: Any, width: int, seconds: float) -> Measurement:
        from grpclib.client import UnaryUnaryMethod

        async with self.channel(address) as channel:
            call = UnaryUnaryMethod(channel, SERVICE + "Echo", pb.EchoRequest, pb.EchoReply)
            return await self.in_flight(call, request, width, seconds)

    async def stream(self, address: str, seconds: float) -> Measurement:
        from grpclib.client import StreamStreamMethod

        async with self.channel(address) as channel:
            method = StreamStreamMethod(channel, SERVICE + "Chat", pb.EchoRequest, pb.EchoReply)
            async with method.open() as stream:

                async def send() -> None:
                    await stream.send_message(SMALL)

                measured = await self.ping_pong(send, stream.recv_message, LoopTimer(seconds))
                await stream.cancel()
                return measured

    async def download(self, address: str, seconds: float) -> Measurement:
        from grpclib.client import UnaryStreamMethod

        clock = LoopTimer(seconds)
        async with self.channel(address) as channel:
            method = UnaryStreamMethod(channel, SERVICE + "Repeat", pb.RepeatRequest, pb.EchoReply)
            clock.start()
            while clock.is_running:
                async with method.open() as stream:
                    await stream.send_message(HUGE, end=True)
                    async for _ in stream:
                        clock.count += 1
            return clock.stop()

    async def connect_and_call(self, address: str) -> None:
        from grpclib.client import UnaryUnaryMethod

        async with self.channel(address) as channel:
            await UnaryUnaryMethod(channel, SERVICE + "Echo", pb.EchoRequest, pb.EchoReply)(SMALL)


class _GrpclibEcho:
    async def Echo(self, stream: Any) -> None:
        request = await stream.recv_message()
        await stream.send_message(pb.EchoReply(message=request.message))

    async def Repeat(self, stream: Any) -> None:
        request = await stream.recv_message()
        reply = pb.EchoReply(message=request.message)
        for _ in range(request.count):
            await stream.send_message(reply)

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
            SERVICE + "Chat": handler("Chat", "STREAM_STREAM", pb.EchoRequest),
        }
