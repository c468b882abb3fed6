"""grpcio: its asyncio interface, and threads."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
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

NO_LIMIT = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]


class GrpcAio(AsyncioPeer):
    name = "grpc.aio"

    def serve(self, address: str) -> None:
        asyncio.run(self._serve(address))

    async def _serve(self, address: str) -> None:
        import grpc

        server = grpc.aio.server(options=NO_LIMIT)
        server.add_generic_rpc_handlers([_grpcio_handlers(_AioEcho)])
        server.add_insecure_port(f"unix:{address}")
        await server.start()
        await server.wait_for_termination()

    @asynccontextmanager
    async def channel(self, address: str) -> AsyncIterator[Any]:
        import grpc

        async with grpc.aio.insecure_channel(f"unix:{address}", options=NO_LIMIT) as channel:
            yield channel

    async def unary(self, address: str, request: Any, width: int, seconds: float) -> Measurement:
        async with self.channel(address) as channel:
            return await self.in_flight(_grpcio_echo(channel), request, width, seconds)

    async def stream(self, address: str, seconds: float) -> Measurement:
        async with self.channel(address) as channel:
            call = channel.stream_stream(
                SERVICE + "Chat", pb.EchoRequest.SerializeToString, pb.EchoReply.FromString
            )()

            async def send() -> None:
                await call.write(SMALL)

            return await self.ping_pong(send, call.read, LoopTimer(seconds))

    async def download(self, address: str, seconds: float) -> Measurement:
        clock = LoopTimer(seconds)
        async with self.channel(address) as channel:
            method = channel.unary_stream(
                SERVICE + "Repeat", pb.RepeatRequest.SerializeToString, pb.EchoReply.FromString
            )
            clock.start()
            while clock.is_running:
                async for _ in method(HUGE):
                    clock.count += 1
            return clock.stop()

    async def connect_and_call(self, address: str) -> None:
        async with self.channel(address) as channel:
            await _grpcio_echo(channel)(SMALL)


def _grpcio_echo(channel: Any) -> Any:
    return channel.unary_unary(
        SERVICE + "Echo", pb.EchoRequest.SerializeToString, pb.EchoReply.FromString
    )


class _AioEcho:
    @staticmethod
    async def Echo(request: Any, context: Any) -> Any:
        return pb.EchoReply(message=request.message)

    @staticmethod
    async def Repeat(request: Any, context: Any) -> AsyncIterator[Any]:
        reply = pb.EchoReply(message=request.message)
        for _ in range(request.count):
            yield reply

    @staticmethod
    async def Chat(requests: AsyncIterator[Any], context: Any) -> AsyncIterator[Any]:
        async for request in requests:
            yield pb.EchoReply(message=request.message)

    @staticmethod
    async def Slow(request: Any, context: Any) -> Any:
        await asyncio.sleep(request.seconds)
        return pb.EchoReply()


def _grpcio_handlers(servicer: Any) -> Any:
    import grpc

    def handler(kind: str, name: str, request_type: Any) -> Any:
        make = getattr(grpc, f"{kind}_rpc_method_handler")
        function = getattr(servicer, name)
        return make(function, request_type.FromString, pb.EchoReply.SerializeToString)

    methods = {
        "Echo": handler("unary_unary", "Echo", pb.EchoRequest),
        "Slow": handler("unary_unary", "Slow", pb.SlowRequest),
        "Repeat": handler("unary_stream", "Repeat", pb.RepeatRequest),
        "Chat": handler("stream_stream", "Chat", pb.EchoRequest),
    }
    return grpc.method_handlers_generic_handler("echo.v1.EchoService", methods)


# -- grpcio with threads -------------------------------------------------------------------------


class GrpcioThreads:
    name = "grpcio"

    def serve(self, address: str) -> None:
        import grpc

        server = grpc.server(ThreadPoolExecutor(16), options=NO_LIMIT)
        server.add_generic_rpc_handlers([_grpcio_handlers(_ThreadEcho)])
        server.add_insecure_port(f"unix:{address}")
        server.start()
        server.wait_for_termination()

    def run(self, case: Callable[..., Measurement], *arguments: Any) -> Measurement:
        return case(*arguments)

    def unary(self, address: str, request: Any, width: int, seconds: float) -> Measurement:
        import grpc

        clock = LoopTimer(seconds)
        with grpc.insecure_channel(f"unix:{address}", options=NO_LIMIT) as channel:
            call = _grpcio_echo(channel)
            for _ in range(20):
                call(request)

            def loop() -> int:
                count = 0
                while clock.is_running:
                    call(request)
                    count += 1
                return count

            with ThreadPoolExecutor(width) as threads:
                clock.start()
                clock.count = sum(f.result() for f in [threads.submit(loop) for _ in range(width)])
                return clock.stop()

    def stream(self, address: str, seconds: float) -> Measurement:
        import queue

        import grpc

        clock = LoopTimer(seconds)
        waiting: queue.SimpleQueue[Any] = queue.SimpleQueue()
        with grpc.insecure_channel(f"unix:{address}", options=NO_LIMIT) as channel:
            method = channel.stream_stream(
                SERVICE + "Chat", pb.EchoRequest.SerializeToString, pb.EchoReply.FromString
            )
            replies = method(iter(waiting.get, None))
            for _ in range(100):
                waiting.put(SMALL)
            clock.start()
            while clock.is_running:
                next(replies)
                clock.count += 1
                waiting.put(SMALL)
            measured = clock.stop()
            waiting.put(None)
            return measured

    def download(self, address: str, seconds: float) -> Measurement:
        import grpc

        clock = LoopTimer(seconds)
        with grpc.insecure_channel(f"unix:{address}", options=NO_LIMIT) as channel:
            method = channel.unary_stream(
                SERVICE + "Repeat", pb.RepeatRequest.SerializeToString, pb.EchoReply.FromString
            )
            clock.start()
            while clock.is_running:
                for _ in method(HUGE):
                    clock.count += 1
            return clock.stop()

    def connect(self, address: str, seconds: float) -> Measurement:
        import grpc

        def connect_and_call() -> None:
            with grpc.insecure_channel(f"unix:{address}") as channel:
                _grpcio_echo(channel)(SMALL)

        clock = LoopTimer(seconds)
        connect_and_call()
        clock.start()
        while clock.is_running:
            connect_and_call()
            clock.count += 1
        return clock.stop()


class _ThreadEcho:
    @staticmethod
    def Echo(request: Any, context: Any) -> Any:
        return pb.EchoReply(message=request.message)

    @staticmethod
    def Repeat(request: Any, context: Any) -> Iterator[Any]:
        reply = pb.EchoReply(message=request.message)
        for _ in range(request.count):
            yield reply

    @staticmethod
    def Chat(requests: Iterator[Any], context: Any) -> Iterator[Any]:
        for request in requests:
            yield pb.EchoReply(message=request.message)

    @staticmethod
    def Slow(request: Any, context: Any) -> Any:
        time.sleep(request.seconds)
        return pb.EchoReply()
