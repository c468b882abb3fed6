"""A gateway on a socket before servers on others, in one trio run."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from pathlib import Path

import attrs
import trio

from meshtrio.client.channel import Channel, connect_to, open_channel
from meshtrio.client.endpoint import Departure, Endpoint
from meshtrio.gateway.gateway import Gateway
from meshtrio.gateway.health import PassedHealth
from meshtrio.registry.memory import MemoryRegistry
from meshtrio.rpc.client import ClientConnection
from meshtrio.rpc.server import Server
from meshtrio.rpc.tally import calls_of
from meshtrio.services.standard import standard_server
from meshtrio.structured import running
from meshtrio.telemetry.families import Distribution
from meshtrio.telemetry.metrics.passed import PassedCalls
from meshtrio.wire.limits import Limits
from tests.client.test_channel import serving
from tests.rpc.pairs import fixed


@attrs.define
class Behind:
    """A gateway; `channel` is a client's to its socket."""

    folder: Path
    registry: MemoryRegistry
    gateway: Gateway
    server: Server
    channel: Channel

    @asynccontextmanager
    async def serve(self, service: str, server: Server | None = None) -> AsyncIterator[Server]:
        """Have an endpoint of a service for the block."""
        path = self.folder / f"{service}.{len(list(self.folder.iterdir()))}"
        self.registry.declare(service)
        async with serving(path, server) as found:
            endpoint = Endpoint(path.name, f"unix:{path}")
            self.registry.register(service, endpoint)
            yield found

    @asynccontextmanager
    async def client(self, limits: Limits) -> AsyncIterator[Channel]:
        """A client that takes no more than that."""
        async with connect_to(f"unix:{self.folder / 'mesh.sock'}", limits=limits) as channel:
            yield channel

    @contextmanager
    def registry_entry(self, service: str, path: Path) -> Iterator[None]:
        """Have a socket that somebody else serves among the endpoints of a service."""
        self.registry.declare(service)
        self.registry.register(service, Endpoint(str(path), f"unix:{path}"))
        yield
        self.registry.deregister(service, Departure(str(path), "over"))

    @asynccontextmanager
    async def as_authority(self, name: str) -> AsyncIterator[Channel]:
        """A client's channel whose calls have this :authority."""
        address = f"unix:{self.folder / 'mesh.sock'}"
        async with open_channel(name, fixed(Endpoint("gateway", address))) as channel:
            yield channel

    def upstream(self) -> list[ClientConnection]:
        """The gateway's own connections."""
        return [
            connection
            for kept in self.gateway._channels.values()
            for subchannel in kept.channel._subchannels.values()
            for connection in subchannel.link._connections
        ]

    async def assert_nothing_left(self) -> None:
        """No entry of a stream anywhere, once all is said."""
        await trio.testing.wait_all_tasks_blocked(0.02)
        for connection in (*self.server.connections, *self.upstream()):
            assert connection.streams == {}, type(connection)
            assert connection.engine.open_streams == 0, type(connection)
            assert not connection.window_waiters
            calls = calls_of(connection)
            assert calls.started == calls.succeeded + calls.failed, type(connection)
        for channel in (self.channel, *(kept.channel for kept in self.gateway._channels.values())):
            calls = channel.calls
            assert calls.started == calls.succeeded + calls.failed, channel.name
        started, ended = measured(self.gateway)
        assert started == ended.total()


def measured(gateway: Gateway) -> tuple[int, Counter[tuple[str, str]]]:
    """Calls that were counted: those that began, and by target and status those that ended."""
    assert gateway.measured is not None
    began, ended = gateway.measured.families()
    found: Counter[tuple[str, str]] = Counter()
    for point in ended.points:
        assert isinstance(point.value, Distribution)
        labels = dict(point.labels)
        found[labels["grpc.target"], labels["grpc.status"]] = sum(point.value.counts)
    return sum(point.value for point in began.points if isinstance(point.value, int)), found


@asynccontextmanager
async def gateway_to(
    folder: Path,
    configured: Mapping[str, Iterable[str]] | None = None,
    limits: Limits | None = None,
    **servers: Server,
) -> AsyncIterator[Behind]:
    """A gateway to servers by the names of their services; `limits` are those of its clients."""
    registry = MemoryRegistry()
    found = configured or {}
    gateway = Gateway(registry, lambda: found, PassedCalls())
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(running(gateway.run))
        health = PassedHealth(registry, gateway)
        others = gateway.catalog.described
        server = standard_server(
            forwarder=gateway, others=others, others_health=health, limits=limits
        )[0]
        await stack.enter_async_context(serving(folder / "mesh.sock", server))
        channel = await stack.enter_async_context(connect_to(f"unix:{folder / 'mesh.sock'}"))
        behind = Behind(folder, registry, gateway, server, channel)
        for name, each in servers.items():
            await stack.enter_async_context(behind.serve(name, each))
        yield behind


def described(*servicers: object) -> Server:
    """A server with reflection."""
    return standard_server(*servicers)[0]
