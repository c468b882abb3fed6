"""The peers of the RPC benchmark: one service, echo.v1, on every Python gRPC there is, and a floor.

Each peer is a class with `serve(address)` and a set of client cases. A case runs for about
`seconds` and gives how many operations it did in how many seconds.
"""

from __future__ import annotations

import asyncio
import os
import socket
import struct
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import attrs
import trio
from echo.v1 import echo_pb2 as pb

SMALL = pb.EchoRequest(message="x" * 90)
LARGE = pb.EchoRequest(message="x" * (1024 * 1024 - 16))
STREAM_REPLIES = 64
HUGE = pb.RepeatRequest(message=LARGE.message, count=STREAM_REPLIES)
NO_LIMIT = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
SERVICE = "/echo.v1.EchoService/"


@attrs.frozen
class Measured:
    """Operations, the seconds they took, and the CPU seconds of this process for them."""

    count: int
    seconds: float
    cpu: float


class Clock:
    """Runs a loop for its time, after a warm-up that is not counted."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._end = 0.0
        self.count = 0

    def start(self) -> None:
        self._cpu, self._began = time.process_time(), time.perf_counter()
        self._end = self._began + self._seconds
        self.count = 0

    @property
    def going(self) -> bool:
        return time.perf_counter() < self._end

    def stop(self) -> Measured:
        return Measured(
            self.count, time.perf_counter() - self._began, time.process_time() - self._cpu
        )


Unary = Callable[[Any], Awaitable[Any]]


class AsyncPeer:
    """Cases for peers whose calls are awaited, on trio or asyncio alike."""

    async def gather(self, tasks: list[Callable[[], Awaitable[None]]]) -> None:
        raise NotImplementedError

    async def in_flight(self, call: Unary, request: Any, width: int, seconds: float) -> Measured:
        """`width` loops of calls at once."""
        clock = Clock(seconds)

        async def warm_up() -> None:
            for _ in range(20):
                await call(request)

        async def loop() -> None:
            while clock.going:
                await call(request)
                clock.count += 1

        await self.gather([warm_up] * min(width, 20))
        clock.start()
        await self.gather([loop] * width)
        return clock.stop()

    async def ping_pong(
        self,
        send: Callable[[], Awaitable[None]],
        receive: Callable[[], Awaitable[Any]],
        clock: Clock,
    ) -> Measured:
        """Messages of one stream, with 100 on their way at a time."""
        for _ in range(100):
            await send()
        clock.start()
        while clock.going:
            for _ in range(50):
                await receive()
                clock.count += 1
            for _ in range(50):
                await send()
        return clock.stop()


# -- meshtrio ----------------------------------------------------------------------------------


class Meshtrio(AsyncPeer):
    """A bare channel to one socket."""

    name = "meshtrio"

    def serve(self, address: str) -> None:
        os.environ["PLUGIN_SOCKET"] = address
        from meshtrio import plugin

        class Echo(echo_servicer()):  # type: ignore[misc]
            pass

        plugin.run(Echo())

    @asynccontextmanager
    async def stub(self, address: str) -> AsyncIterator[Any]:
        from echo.v1.echo_grpc import EchoServiceStub

        from meshtrio.rpc.channel import connect_to

        async with connect_to(f"unix:{address}") as channel:
            yield channel.stub(EchoServiceStub)

    def run(self, case: Callable[..., Awaitable[Measured]], *arguments: Any) -> Measured:
        return trio.run(case, *arguments)

    async def gather(self, tasks: list[Callable[[], Awaitable[None]]]) -> None:
        async with trio.open_nursery() as nursery:
            for task in tasks:
                nursery.start_soon(task)

    async def unary(self, address: str, request: Any, width: int, seconds: float) -> Measured:
        async with self.stub(address) as stub:
            return await self.in_flight(stub.Echo, request, width, seconds)

    async def stream(self, address: str, seconds: float) -> Measured:
        async with self.stub(address) as stub, stub.Chat() as call:

            async def send() -> None:
                await call.send_message(SMALL)

            return await self.ping_pong(send, call.receive_message, Clock(seconds))

    async def download(self, address: str, seconds: float) -> Measured:
        clock = Clock(seconds)
        async with self.stub(address) as stub:
            clock.start()
            while clock.going:
                async for _ in stub.Repeat(HUGE):
                    clock.count += 1
            return clock.stop()

    async def connect(self, address: str, seconds: float) -> Measured:
        clock = Clock(seconds)
        clock.start()
        while clock.going:
            async with self.stub(address) as stub:
                await stub.Echo(SMALL)
            clock.count += 1
        return clock.stop()


class MeshtrioMesh(Meshtrio):
    """`mesh.connect` through a mesh's registry, then straight to the plugin."""

    name = "meshtrio-mesh"

    def serve(self, address: str) -> None:
        from meshtrio import mesh
        from meshtrio.config import MeshConfig, PluginConfig

        command = ["{python}", "-m", "tests.benchmarks.rpc", "--plugin"]
        plugin = PluginConfig(name="echo", command=command)
        trio.run(mesh.main, MeshConfig([plugin], runtime_dir=Path(address).parent / "mesh"))

    @asynccontextmanager
    async def stub(self, address: str) -> AsyncIterator[Any]:
        from echo.v1.echo_grpc import EchoServiceStub

        from meshtrio import mesh

        socket_path = Path(address).parent / "mesh" / "mesh.sock"
        async with mesh.connect("plugin.echo", mesh_socket=socket_path) as channel:
            yield channel.stub(EchoServiceStub)


def echo_servicer() -> Any:
    """The service as purerpc has it, for meshtrio and for stock purerpc."""
    from echo.v1.echo_grpc import EchoServiceServicer

    class Echo(EchoServiceServicer):  # type: ignore[misc]
        async def Echo(self, request: Any) -> Any:
            return pb.EchoReply(message=request.message)

        async def Repeat(self, request: Any) -> AsyncIterator[Any]:
            reply = pb.EchoReply(message=request.message)
            for _ in range(request.count):
                yield reply

        async def Chat(self, requests: AsyncIterator[Any]) -> AsyncIterator[Any]:
            async for request in requests:
                yield pb.EchoReply(message=request.message)

        async def Slow(self, request: Any) -> Any:
            await trio.sleep(request.seconds)
            return pb.EchoReply()

    return Echo


# -- stock purerpc, on TCP, which is all it has --------------------------------------------------


class Purerpc(Meshtrio):
    name = "purerpc"

    def serve(self, address: str) -> None:
        import purerpc

        server = purerpc.Server(_port(address))
        server.add_service(echo_servicer()().service)
        trio.run(server.serve_async)

    @asynccontextmanager
    async def stub(self, address: str) -> AsyncIterator[Any]:
        import purerpc
        from echo.v1.echo_grpc import EchoServiceStub

        async with purerpc.insecure_channel("127.0.0.1", _port(address)) as channel:
            yield EchoServiceStub(channel)

    async def stream(self, address: str, seconds: float) -> Measured:
        async with self.stub(address) as stub:
            call = await stub.Chat()

            async def send() -> None:
                await call.send_message(SMALL)

            return await self.ping_pong(send, call.receive_message, Clock(seconds))


def _port(address: str) -> int:
    """A port below the ephemeral ones, for a peer that has no Unix sockets."""
    return 20_000 + sum(map(ord, address)) % 10_000


# -- asyncio: grpc.aio and grpclib ---------------------------------------------------------------


class AsyncioPeer(AsyncPeer):
    def run(self, case: Callable[..., Awaitable[Measured]], *arguments: Any) -> Measured:
        async def main() -> Measured:
            return await case(*arguments)

        return asyncio.run(main())

    async def gather(self, tasks: list[Callable[[], Awaitable[None]]]) -> None:
        await asyncio.gather(*(task() for task in tasks))


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

    async def unary(self, address: str, request: Any, width: int, seconds: float) -> Measured:
        async with self.channel(address) as channel:
            return await self.in_flight(_grpcio_echo(channel), request, width, seconds)

    async def stream(self, address: str, seconds: float) -> Measured:
        async with self.channel(address) as channel:
            call = channel.stream_stream(
                SERVICE + "Chat", pb.EchoRequest.SerializeToString, pb.EchoReply.FromString
            )()

            async def send() -> None:
                await call.write(SMALL)

            return await self.ping_pong(send, call.read, Clock(seconds))

    async def download(self, address: str, seconds: float) -> Measured:
        clock = Clock(seconds)
        async with self.channel(address) as channel:
            method = channel.unary_stream(
                SERVICE + "Repeat", pb.RepeatRequest.SerializeToString, pb.EchoReply.FromString
            )
            clock.start()
            while clock.going:
                async for _ in method(HUGE):
                    clock.count += 1
            return clock.stop()

    async def connect(self, address: str, seconds: float) -> Measured:
        clock = Clock(seconds)
        clock.start()
        while clock.going:
            async with self.channel(address) as channel:
                await _grpcio_echo(channel)(SMALL)
            clock.count += 1
        return clock.stop()


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

    async def unary(self, address: str, request: Any, width: int, seconds: float) -> Measured:
        from grpclib.client import UnaryUnaryMethod

        async with self.channel(address) as channel:
            call = UnaryUnaryMethod(channel, SERVICE + "Echo", pb.EchoRequest, pb.EchoReply)
            return await self.in_flight(call, request, width, seconds)

    async def stream(self, address: str, seconds: float) -> Measured:
        from grpclib.client import StreamStreamMethod

        async with self.channel(address) as channel:
            method = StreamStreamMethod(channel, SERVICE + "Chat", pb.EchoRequest, pb.EchoReply)
            async with method.open() as stream:

                async def send() -> None:
                    await stream.send_message(SMALL)

                measured = await self.ping_pong(send, stream.recv_message, Clock(seconds))
                await stream.cancel()
                return measured

    async def download(self, address: str, seconds: float) -> Measured:
        from grpclib.client import UnaryStreamMethod

        clock = Clock(seconds)
        async with self.channel(address) as channel:
            method = UnaryStreamMethod(channel, SERVICE + "Repeat", pb.RepeatRequest, pb.EchoReply)
            clock.start()
            while clock.going:
                async with method.open() as stream:
                    await stream.send_message(HUGE, end=True)
                    async for _ in stream:
                        clock.count += 1
            return clock.stop()

    async def connect(self, address: str, seconds: float) -> Measured:
        from grpclib.client import UnaryUnaryMethod

        clock = Clock(seconds)
        clock.start()
        while clock.going:
            async with self.channel(address) as channel:
                await UnaryUnaryMethod(channel, SERVICE + "Echo", pb.EchoRequest, pb.EchoReply)(
                    SMALL
                )
            clock.count += 1
        return clock.stop()


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

    def run(self, case: Callable[..., Measured], *arguments: Any) -> Measured:
        return case(*arguments)

    def unary(self, address: str, request: Any, width: int, seconds: float) -> Measured:
        import grpc

        clock = Clock(seconds)
        with grpc.insecure_channel(f"unix:{address}", options=NO_LIMIT) as channel:
            call = _grpcio_echo(channel)
            for _ in range(20):
                call(request)

            def loop() -> int:
                count = 0
                while clock.going:
                    call(request)
                    count += 1
                return count

            with ThreadPoolExecutor(width) as threads:
                clock.start()
                clock.count = sum(f.result() for f in [threads.submit(loop) for _ in range(width)])
                return clock.stop()

    def stream(self, address: str, seconds: float) -> Measured:
        import queue

        import grpc

        clock = Clock(seconds)
        waiting: queue.SimpleQueue[Any] = queue.SimpleQueue()
        with grpc.insecure_channel(f"unix:{address}", options=NO_LIMIT) as channel:
            method = channel.stream_stream(
                SERVICE + "Chat", pb.EchoRequest.SerializeToString, pb.EchoReply.FromString
            )
            replies = method(iter(waiting.get, None))
            for _ in range(100):
                waiting.put(SMALL)
            clock.start()
            while clock.going:
                next(replies)
                clock.count += 1
                waiting.put(SMALL)
            measured = clock.stop()
            waiting.put(None)
            return measured

    def download(self, address: str, seconds: float) -> Measured:
        import grpc

        clock = Clock(seconds)
        with grpc.insecure_channel(f"unix:{address}", options=NO_LIMIT) as channel:
            method = channel.unary_stream(
                SERVICE + "Repeat", pb.RepeatRequest.SerializeToString, pb.EchoReply.FromString
            )
            clock.start()
            while clock.going:
                for _ in method(HUGE):
                    clock.count += 1
            return clock.stop()

    def connect(self, address: str, seconds: float) -> Measured:
        import grpc

        clock = Clock(seconds)
        clock.start()
        while clock.going:
            with grpc.insecure_channel(f"unix:{address}") as channel:
                _grpcio_echo(channel)(SMALL)
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


# -- the floor: the same bytes on a bare trio socket ---------------------------------------------


class Floor(Meshtrio):
    """A length, then that many bytes, echoed: what trio and the kernel cost by themselves."""

    name = "floor"

    def serve(self, address: str) -> None:
        trio.run(self._serve, address)

    async def _serve(self, address: str) -> None:
        listener = trio.socket.socket(socket.AF_UNIX)
        await listener.bind(address)
        listener.listen(100)
        await trio.serve_listeners(self._echo, [trio.SocketListener(listener)])

    async def _echo(self, stream: trio.SocketStream) -> None:
        received = bytearray()
        async for data in stream:
            received += data
            size = 4 + int.from_bytes(received[:4], "big")
            if len(received) == size:
                await stream.send_all(received)
                received.clear()

    async def unary(self, address: str, request: Any, width: int, seconds: float) -> Measured:
        message = request.SerializeToString()
        message = struct.pack(">L", len(message)) + message

        streams = [await trio.open_unix_socket(address) for _ in range(width)]
        free = list(streams)

        async def call(_: Any) -> None:
            stream = free.pop()
            await stream.send_all(message)
            left = len(message)
            while left:
                left -= len(await stream.receive_some(left))
            free.append(stream)

        try:
            return await self.in_flight(call, request, width, seconds)
        finally:
            for stream in streams:
                await stream.aclose()


PEERS: dict[str, Any] = {
    peer.name: peer
    for peer in (
        Meshtrio(),
        MeshtrioMesh(),
        GrpcAio(),
        GrpcioThreads(),
        Grpclib(),
        Purerpc(),
        Floor(),
    )
}
