"""Peers on trio: meshtrio both ways, stock purerpc, and the floor."""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import trio
from echo.v1 import echo_pb2 as pb

from tests.benchmarks.peers.base import HUGE, SMALL, AsyncPeer, LoopTimer, Measurement, tcp_port


class Meshtrio(AsyncPeer):
    """A bare channel to one socket."""

    name = "meshtrio"

    def serve(self, address: str) -> None:
        os.environ["PLUGIN_SOCKET"] = address
        from meshtrio import plugin
        from meshtrio.http2.limits import Limits

        class Echo(echo_servicer()):  # type: ignore[misc]
            pass

        # One process holds a thousand connections here.
        plugin.run(Echo(), limits=Limits(max_connections_per_peer=4096))

    @asynccontextmanager
    async def stub(self, address: str) -> AsyncIterator[Any]:
        from echo.v1.echo_grpc import EchoServiceStub

        from meshtrio.client.channel import connect_to

        async with connect_to(f"unix:{address}") as channel:
            yield channel.stub(EchoServiceStub)

    def run(self, case: Callable[..., Awaitable[Measurement]], *arguments: Any) -> Measurement:
        return trio.run(case, *arguments)

    async def gather(self, tasks: list[Callable[[], Awaitable[None]]]) -> None:
        async with trio.open_nursery() as nursery:
            for task in tasks:
                nursery.start_soon(task)

    async def unary(self, address: str, request: Any, width: int, seconds: float) -> Measurement:
        async with self.stub(address) as stub:
            return await self.in_flight(stub.Echo, request, width, seconds)

    async def stream(self, address: str, seconds: float) -> Measurement:
        async with self.stub(address) as stub, stub.Chat() as call:

            async def send() -> None:
                await call.send_message(SMALL)

            return await self.ping_pong(send, call.receive_message, LoopTimer(seconds))

    async def download(self, address: str, seconds: float) -> Measurement:
        clock = LoopTimer(seconds)
        async with self.stub(address) as stub:
            clock.start()
            while clock.is_running:
                async for _ in stub.Repeat(HUGE):
                    clock.count += 1
            return clock.stop()

    async def connect_and_call(self, address: str) -> None:
        async with self.stub(address) as stub:
            await stub.Echo(SMALL)


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

        server = purerpc.Server(tcp_port(address))
        server.add_service(echo_servicer()().service)
        trio.run(server.serve_async)

    @asynccontextmanager
    async def stub(self, address: str) -> AsyncIterator[Any]:
        import purerpc
        from echo.v1.echo_grpc import EchoServiceStub

        async with purerpc.insecure_channel("127.0.0.1", tcp_port(address)) as channel:
            yield EchoServiceStub(channel)

    async def stream(self, address: str, seconds: float) -> Measurement:
        async with self.stub(address) as stub:
            call = await stub.Chat()

            async def send() -> None:
                await call.send_message(SMALL)

            return await self.ping_pong(send, call.receive_message, LoopTimer(seconds))


# -- the floor: the same bytes on a bare trio socket ---------------------------------------------


class RawSocketFloor(Meshtrio):
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

    async def unary(self, address: str, request: Any, width: int, seconds: float) -> Measurement:
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
