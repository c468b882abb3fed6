"""A gateway on a socket before servers on others, in one trio run."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import attrs
import trio
from echo.v1.echo_pb2 import EchoReply, RepeatRequest

from meshtrio.client.channel import Channel, connect_to, open_channel
from meshtrio.discovery.endpoint import Endpoint, ExitInfo
from meshtrio.discovery.registry import Registry
from meshtrio.gateway.router import Router
from meshtrio.http2.limits import Limits
from meshtrio.rpc.client_connection import ClientConnection
from meshtrio.rpc.server import Server
from meshtrio.rpc.timeouts import Timeouts
from meshtrio.services.health import HealthServicer
from meshtrio.services.standard import add_standard_services
from meshtrio.telemetry.metric_families import Distribution
from meshtrio.telemetry.metrics.call_metrics import GatewayMetrics
from meshtrio.util.concurrency import background_service
from tests.support.connection_pairs import CallbackServicer, echo_reply, static_resolver
from tests.support.handlers import handle_chat, handle_echo, handle_join
from tests.support.servers import serve_on_socket, standard_server


@attrs.define
class GatewayHarness:
    """A gateway; `channel` is a client's to its socket."""

    folder: Path
    registry: Registry
    gateway: Router
    server: Server
    channel: Channel

    @asynccontextmanager
    async def serve_endpoint(
        self, service: str, server: Server | None = None
    ) -> AsyncIterator[Server]:
        """Have an endpoint of a service for the block."""
        path = self.folder / f"{service}.{len(list(self.folder.iterdir()))}"
        self.registry.add_service(service)
        async with serve_on_socket(path, server) as found:
            endpoint = Endpoint(path.name, f"unix:{path}")
            self.registry.register(service, endpoint)
            yield found

    @asynccontextmanager
    async def connect_client(self, limits: Limits) -> AsyncIterator[Channel]:
        """A client that takes no more than that."""
        async with connect_to(f"unix:{self.folder / 'mesh.sock'}", limits=limits) as channel:
            yield channel

    @contextmanager
    def register_endpoint(self, service: str, path: Path) -> Iterator[None]:
        """Register a socket that another server serves as an endpoint of a service."""
        self.registry.add_service(service)
        self.registry.register(service, Endpoint(str(path), f"unix:{path}"))
        yield
        self.registry.deregister(service, ExitInfo(str(path), "over"))

    @asynccontextmanager
    async def connect_with_authority(self, name: str) -> AsyncIterator[Channel]:
        """A client's channel whose calls have this :authority."""
        address = f"unix:{self.folder / 'mesh.sock'}"
        async with open_channel(name, static_resolver(Endpoint("gateway", address))) as channel:
            yield channel

    def upstream_connections(self) -> list[ClientConnection]:
        """The gateway's own connections."""
        return [
            connection
            for kept in self.gateway.channels.values()
            for subchannel in kept.channel.picker.endpoints
            for connection in subchannel.subchannel.connections
        ]

    async def assert_nothing_left(self) -> None:
        """Assert that no stream is left anywhere, and that all counters agree."""
        await trio.testing.wait_all_tasks_blocked(0.02)
        for connection in (*self.server.connections, *self.upstream_connections()):
            assert connection.streams == {}, type(connection)
            assert connection._engine.open_stream_count == 0, type(connection)
            assert not connection.window_waiters.streams
            calls = connection.statistics().calls
            assert calls.started == calls.succeeded + calls.failed, type(connection)
        for channel in (self.channel, *(kept.channel for kept in self.gateway.channels.values())):
            calls = channel.call_counters
            assert calls.started == calls.succeeded + calls.failed, channel.name
        started, ended = count_calls(self.gateway)
        assert started == ended.total()


def count_calls(gateway: Router) -> tuple[int, Counter[tuple[str, str]]]:
    """Calls that were counted: those that began, and by target and status those that ended."""
    assert gateway.call_metrics is not None
    began, ended = gateway.call_metrics.collect()
    found: Counter[tuple[str, str]] = Counter()
    for point in ended.points:
        assert isinstance(point.value, Distribution)
        labels = dict(point.labels)
        found[labels["grpc.target"], labels["grpc.status"]] = sum(point.value.counts)
    return sum(point.value for point in began.points if isinstance(point.value, int)), found


@asynccontextmanager
async def run_gateway(
    folder: Path,
    configured_services: Mapping[str, Iterable[str]] | None = None,
    limits: Limits | None = None,
    timeouts: Timeouts | None = None,
    **servers: Server,
) -> AsyncIterator[GatewayHarness]:
    """A gateway to servers by the names of their services.

    `limits` and `timeouts` are those of its clients.
    """
    registry = Registry()
    found = configured_services or {}
    gateway = Router(registry, lambda: found, GatewayMetrics())
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(background_service(gateway.run))
        health = HealthServicer(fallback=gateway)
        others = gateway.service_index.list_reflection_sources
        server = Server(health, forwarder=gateway, limits=limits, timeouts=timeouts)
        add_standard_services(server, health, get_proxied_sources=others)
        await stack.enter_async_context(serve_on_socket(folder / "mesh.sock", server))
        channel = await stack.enter_async_context(connect_to(f"unix:{folder / 'mesh.sock'}"))
        behind = GatewayHarness(folder, registry, gateway, server, channel)
        for name, each in servers.items():
            await stack.enter_async_context(behind.serve_endpoint(name, each))
        yield behind


def server_with_reflection(*servicers: object) -> Server:
    """A server with reflection."""
    return standard_server(*servicers)[0]


def configure_service(behind: GatewayHarness, **config: Any) -> None:
    behind.registry.set_service_config("a", json.dumps(config))


async def repeat_unchanged(message: RepeatRequest) -> AsyncIterator[EchoReply]:
    for _ in range(message.count):
        yield echo_reply(message.message)


def make_echo_server() -> Server:
    return server_with_reflection(
        CallbackServicer(
            Echo=handle_echo, Repeat=repeat_unchanged, Join=handle_join, Chat=handle_chat
        )
    )
