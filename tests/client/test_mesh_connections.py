"""What `mesh.connect` costs: connections to the mesh socket, and calls of its registry."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import purerpc
import pytest
import trio
import trio.testing
from echo.v1.echo_grpc import EchoServiceStub

from meshtrio import mesh
from meshtrio.client.channel import Channel, connect_to, open_channel
from meshtrio.config import MeshConfig
from meshtrio.discovery.endpoint import ServiceState
from meshtrio.discovery.registry import Registry
from meshtrio.errors import NoMeshError
from meshtrio.http2 import frames
from meshtrio.rpc.context import ServerContext
from meshtrio.rpc.server import Server
from meshtrio.services.registry import RegistryServicer
from meshtrio.transport.listener import unix_listener
from tests.support.connection_pairs import echo_request
from tests.support.counting_relay import CountingRelay, relay_to
from tests.support.servers import serve_on_socket, unix_endpoint

SERVICES = ("one", "two")


class ServedRegistry:
    """A registry on a socket, with a service for each of `SERVICES`, that records its calls."""

    def __init__(self, folder: Path) -> None:
        self.registry = Registry()
        self.calls: list[str] = []
        self.refused: set[str] = set()
        """Methods that fail with RESOURCE_EXHAUSTED."""
        self.socket = folder / "relay"
        self.relay: CountingRelay
        self._folder = folder

    @asynccontextmanager
    async def _record(self, context: ServerContext) -> AsyncIterator[None]:
        method = context.method_name
        self.calls.append(method)
        if method in self.refused:
            raise purerpc.ResourceExhaustedError("not now")
        yield

    @asynccontextmanager
    async def serve(self) -> AsyncIterator[None]:
        servicer = RegistryServicer(self.registry, lambda: MeshConfig(()))
        path = self._folder / "mesh"
        async with (
            serve_on_socket(path, Server(servicer, interceptors=(self._record,))),
            relay_to(path, self.socket) as self.relay,
        ):
            yield


@asynccontextmanager
async def serve_registry(folder: Path) -> AsyncIterator[ServedRegistry]:
    served = ServedRegistry(folder)
    async with AsyncExitStack() as stack:
        for name in SERVICES:
            await stack.enter_async_context(serve_on_socket(folder / name))
            served.registry.add_service(name)
            served.registry.register(name, unix_endpoint(folder / name))
        await stack.enter_async_context(served.serve())
        yield served


async def call(channel: Channel) -> str:
    with trio.fail_after(30):
        return str((await channel.stub(EchoServiceStub).Echo(echo_request("?"))).message)


async def test_a_first_call_takes_one_connection_and_one_call_of_the_mesh(short_dir: Path) -> None:
    async with serve_registry(short_dir) as served:
        async with mesh.connect("one", mesh_socket=served.socket) as channel:
            assert await call(channel) == "one"
        assert served.relay.accepted == 1
        assert served.calls == ["Watch"]


async def test_the_first_state_is_followed_by_later_ones(short_dir: Path) -> None:
    async with (
        serve_registry(short_dir) as served,
        mesh.connect("one", mesh_socket=served.socket) as channel,
    ):
        (endpoint,) = channel.endpoints
        served.registry.register("one", unix_endpoint(short_dir / "two"))
        with trio.fail_after(30):
            while len(channel.endpoints) < 2:
                await channel.wait_for_state_change()
        assert channel.endpoints[0] == endpoint


async def test_all_channels_of_a_process_share_one_connection(short_dir: Path) -> None:
    async with serve_registry(short_dir) as served, AsyncExitStack() as stack:
        for name in (*SERVICES, *SERVICES):
            connecting = mesh.connect(name, mesh_socket=served.socket)
            assert await call(await stack.enter_async_context(connecting)) == name
        assert served.relay.accepted == 1
        assert sorted(served.calls) == ["Resolve", "Resolve", "Watch", "Watch"]


async def test_channels_that_are_opened_at_once_share_one_connection(short_dir: Path) -> None:
    async with serve_registry(short_dir) as served:

        async def connect(name: str) -> None:
            async with mesh.connect(name, mesh_socket=served.socket) as channel:
                assert await call(channel) == name
                opened.append(name)
                await trio.sleep_forever()

        opened: list[str] = []
        with trio.fail_after(30):
            async with trio.open_nursery() as nursery:
                for name in SERVICES * 10:
                    nursery.start_soon(connect, name)
                while len(opened) < 20:
                    await trio.testing.wait_all_tasks_blocked(0.001)
                nursery.cancel_scope.cancel()
        assert served.relay.accepted == 1
        assert served.calls.count("Watch") == 2


async def test_a_watch_that_is_refused_leaves_a_state(short_dir: Path) -> None:
    async with serve_registry(short_dir) as served:
        served.refused.add("Watch")
        async with mesh.connect("one", mesh_socket=served.socket) as channel:
            assert await call(channel) == "one"
        assert served.relay.accepted == 1


async def test_an_unknown_service_is_reported(short_dir: Path) -> None:
    async with serve_registry(short_dir) as served:
        with pytest.raises(purerpc.NotFoundError, match="known services: one, two"):
            async with mesh.connect("three", mesh_socket=served.socket):
                pass
        assert served.relay.accepted == 1


async def test_a_mesh_that_has_gone_is_reported_although_its_states_are_known(
    short_dir: Path,
) -> None:
    async with serve_registry(short_dir) as served, AsyncExitStack() as stack:
        connecting = mesh.connect("one", mesh_socket=served.socket)
        channel = await stack.enter_async_context(connecting)
        served.socket.unlink()
        # A connection that there is goes on, and so does what is connected to it.
        async with mesh.connect("one", mesh_socket=served.socket) as other:
            assert await call(other) == "one"
    assert channel.endpoints == ()
    with pytest.raises(NoMeshError, match="no mesh answers"):
        async with mesh.connect("one", mesh_socket=served.socket):
            pass


async def test_a_resolver_that_fails_before_its_first_state_is_asked_for_it(
    short_dir: Path,
) -> None:
    state = ServiceState((unix_endpoint(short_dir / "one"),))

    async def fail(report: Callable[[ServiceState | None], None]) -> None:
        report(None)
        await trio.sleep_forever()

    async def resolve() -> ServiceState:
        return state

    async with (
        serve_on_socket(short_dir / "one"),
        open_channel("x", fail, resolve_once=resolve) as channel,
    ):
        assert await call(channel) == "one"


async def test_a_mesh_that_rejects_connections_is_waited_for(short_dir: Path) -> None:
    async with serve_registry(short_dir) as served:
        served.relay.rejected = 4
        with trio.fail_after(30):
            async with mesh.connect("one", mesh_socket=served.socket) as channel:
                assert await call(channel) == "one"
        assert served.relay.rejected == 0


@asynccontextmanager
async def accept_one(path: Path) -> AsyncIterator[Callable[[], Awaitable[trio.SocketStream]]]:
    """Listen for the block; yield what accepts a connection, which is closed with it."""
    async with AsyncExitStack() as stack:
        sock = stack.enter_context(unix_listener(path))
        listener = trio.SocketListener(trio.socket.from_stdlib_socket(sock))

        async def accept() -> trio.SocketStream:
            return await stack.enter_async_context(await listener.accept())

        yield accept


async def test_a_watch_is_sent_with_the_preface(short_dir: Path) -> None:
    async def connect() -> None:
        async with mesh.connect("one", mesh_socket=short_dir / "s"):
            raise AssertionError("it is not answered")

    async with accept_one(short_dir / "s") as accept, trio.open_nursery() as nursery:
        nursery.start_soon(connect)
        with trio.fail_after(30):
            data = await (await accept()).receive_some()
        assert data.startswith(frames.PREFACE)
        assert b"/meshtrio.v1.Registry/Watch" in data
        nursery.cancel_scope.cancel()


async def test_a_call_is_sent_with_the_acknowledgement_of_settings(short_dir: Path) -> None:
    """And not before: the server may hang, or reject the connection."""

    async def make_call() -> None:
        async with connect_to(f"unix:{short_dir / 's'}") as channel:
            await channel.stub(EchoServiceStub).Echo(echo_request("?"))

    async with accept_one(short_dir / "s") as accept, trio.open_nursery() as nursery:
        nursery.start_soon(make_call)
        with trio.fail_after(30):
            server = await accept()
            preface = await server.receive_some()
            await trio.testing.wait_all_tasks_blocked()
            await server.send_all(frames.settings({}))
            data = await server.receive_some()
        assert preface.startswith(frames.PREFACE)
        assert b"Echo" not in preface
        assert data.startswith(frames.SETTINGS_ACK)
        assert b"/echo.v1.EchoService/Echo" in data
        nursery.cancel_scope.cancel()


async def test_the_preface_is_acknowledged_although_no_call_waits(short_dir: Path) -> None:
    async def connect() -> None:
        async with connect_to(f"unix:{short_dir / 's'}"):
            await trio.sleep_forever()

    async with accept_one(short_dir / "s") as accept, trio.open_nursery() as nursery:
        nursery.start_soon(connect)
        with trio.fail_after(30):
            server = await accept()
            assert (await server.receive_some()).startswith(frames.PREFACE)
            await server.send_all(frames.settings({}))
            assert await server.receive_some() == frames.SETTINGS_ACK
        nursery.cancel_scope.cancel()
