"""Peers on trio: meshtrio both ways, stock purerpc, and the floor."""

from __future__ import annotations

import os
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import trio
from echo.v1 import echo_pb2 as pb

from tests.benchmarks.peers.async_peer import AsyncPeer, Calls, Receive, Send
from tests.benchmarks.peers.base import (
    DEADLINE,
    Measurement,
    call_metadata,
    tcp_port,
    tls_files,
)
from tests.benchmarks.peers.pacer import Pacer


class Meshtrio(AsyncPeer):
    """A bare channel to one socket."""

    name = "meshtrio"

    def serve(self, address: str) -> None:
        os.environ["PLUGIN_SOCKET"] = address
        if files := tls_files():
            os.environ["PLUGIN_TLS_CERTIFICATE"] = str(files.certificate)
            os.environ["PLUGIN_TLS_KEY"] = str(files.key)
        from echo.v1.echo_grpc import EchoServiceServicer

        from meshtrio import plugin
        from meshtrio.http2.limits import Limits

        # One process holds a thousand connections here.
        servicer = echo_servicer(EchoServiceServicer)
        plugin.run(servicer, limits=Limits(max_connections_per_peer=4096))

    @asynccontextmanager
    async def stub(self, address: str) -> AsyncIterator[Any]:
        from echo.v1.echo_grpc import EchoServiceStub

        from meshtrio.client.channel import connect_to

        async with connect_to(f"unix:{address}", tls=_client_tls()) as channel:
            yield channel.stub(EchoServiceStub)

    @asynccontextmanager
    async def calls(self, address: str) -> AsyncIterator[Calls]:
        async with self.stub(address) as stub:

            async def echo_with_deadline(request: Any) -> Any:
                with trio.fail_after(DEADLINE):
                    return await stub.Echo(request)

            async def echo_with_metadata(request: Any) -> Any:
                return await stub.Echo(request, metadata=call_metadata())

            yield Calls(
                echo=stub.Echo,
                echo_with_deadline=echo_with_deadline,
                echo_with_metadata=echo_with_metadata,
                repeat=stub.Repeat,
                join=stub.Join,
                chat=stub.Chat,
                open_chat=partial(self.open_chat, stub),
            )

    @asynccontextmanager
    async def open_chat(self, stub: Any) -> AsyncIterator[tuple[Send, Receive]]:
        async with stub.Chat() as call:
            yield call.send_message, call.receive_message

    def run(self, case: Callable[..., Awaitable[Measurement]], *arguments: Any) -> Measurement:
        return trio.run(case, *arguments)

    async def gather(self, tasks: list[Callable[[], Awaitable[None]]]) -> None:
        async with trio.open_nursery() as nursery:
            for task in tasks:
                nursery.start_soon(task)

    async def start_paced(self, pacer: Pacer, call: Callable[[float], Awaitable[None]]) -> None:
        async with trio.open_nursery() as nursery:
            while not pacer.has_ended:
                await trio.lowlevel.wait_readable(pacer)
                for due in pacer.take_due():
                    nursery.start_soon(call, due)


def _client_tls() -> Any:
    """The TLS settings of a channel, if it is to speak TLS."""
    from meshtrio.util.tls_config import ClientTlsConfig

    files = tls_files()
    if files is None:
        return None
    return ClientTlsConfig(ca=files.authority, server_name=files.SERVER_NAME)


class MeshtrioMesh(Meshtrio):
    """`mesh.connect` through a mesh's registry, then straight to the plugin."""

    name = "meshtrio-mesh"

    def serve(self, address: str) -> None:
        from meshtrio import mesh
        from meshtrio.config import MeshConfig, PluginConfig

        command = ["{python}", "-m", "tests.benchmarks.rpc", "--plugin"]
        plugin = PluginConfig(name="echo", command=command)
        config = MeshConfig([plugin], runtime_dir=Path(address).parent / "mesh")
        with suppress(KeyboardInterrupt):
            trio.run(mesh.main, config)

    @asynccontextmanager
    async def stub(self, address: str) -> AsyncIterator[Any]:
        from echo.v1.echo_grpc import EchoServiceStub

        from meshtrio import mesh

        socket_path = Path(address).parent / "mesh" / "mesh.sock"
        async with mesh.connect("plugin.echo", mesh_socket=socket_path) as channel:
            yield channel.stub(EchoServiceStub)


def echo_servicer(base: Any) -> Any:
    """The service as purerpc has it, for meshtrio and for stock purerpc."""

    class Echo(base):  # type: ignore[misc]
        async def Echo(self, request: Any) -> Any:
            return pb.EchoReply(message=request.message)

        async def Repeat(self, request: Any) -> AsyncIterator[Any]:
            reply = pb.EchoReply(message=request.message)
            for _ in range(request.count):
                yield reply

        async def Join(self, requests: AsyncIterator[Any]) -> Any:
            # The benchmark wants the cost of the messages, not of joining them.
            count = 0
            async for _ in requests:
                count += 1
            return pb.EchoReply(instance=count)

        async def Chat(self, requests: AsyncIterator[Any]) -> AsyncIterator[Any]:
            async for request in requests:
                yield pb.EchoReply(message=request.message)

        async def Slow(self, request: Any) -> Any:
            await trio.sleep(request.seconds)
            return pb.EchoReply()

    return Echo()


# -- stock purerpc, on TCP, which is all it has --------------------------------------------------


class Purerpc(Meshtrio):
    """With the stubs of its own generator."""

    name = "purerpc"

    def serve(self, address: str) -> None:
        import purerpc

        from tests.support.purerpc_echo_grpc import EchoServiceServicer

        files, context = tls_files(), None
        if files:
            context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
            context.load_cert_chain(files.certificate, files.key)
            context.set_alpn_protocols(["h2"])
        server = purerpc.Server(tcp_port(address), ssl_context=context)
        server.add_service(echo_servicer(EchoServiceServicer).service)
        trio.run(server.serve_async)

    @asynccontextmanager
    async def stub(self, address: str) -> AsyncIterator[Any]:
        import purerpc

        from tests.support.purerpc_echo_grpc import EchoServiceStub

        channel = purerpc.insecure_channel("127.0.0.1", tcp_port(address))
        if files := tls_files():
            context = ssl.create_default_context(cafile=files.authority)
            context.set_alpn_protocols(["h2"])
            channel = purerpc.secure_channel(files.SERVER_NAME, tcp_port(address), context)
        async with channel:
            yield EchoServiceStub(channel)

    @asynccontextmanager
    async def open_chat(self, stub: Any) -> AsyncIterator[tuple[Send, Receive]]:
        call = await stub.Chat()
        yield call.send_message, call.receive_message


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
