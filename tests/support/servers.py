"""Servers on sockets in the test's own trio run, with endpoints and resolvers that lead to them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import trio
from echo.v1.echo_grpc import EchoServiceStub
from echo.v1.echo_pb2 import EchoReply, EchoRequest

from meshtrio.client.channel import Channel
from meshtrio.discovery.endpoint import Endpoint, ExitInfo, ServiceState
from meshtrio.rpc.server import Server
from meshtrio.services.health import HealthServicer
from meshtrio.services.standard import add_standard_services
from meshtrio.telemetry.metrics import Metrics
from meshtrio.transport.listener import unix_listener
from tests.support.connection_pairs import CallbackServicer, echo_request


def standard_server(
    *servicers: Any, metrics: Metrics | None = None, **options: Any
) -> tuple[Server, HealthServicer]:
    """A server as plugins have it, and its health servicer; `options` are those of `Server`."""
    health = HealthServicer()
    server = Server(*servicers, health, **options)
    add_standard_services(server, health, metrics=metrics)
    return server, health


def servicer_named(name: str) -> CallbackServicer:
    async def echo(message: EchoRequest) -> EchoReply:
        if message.message == "hang":
            await trio.sleep_forever()
        return EchoReply(message=name)

    return CallbackServicer(Echo=echo)


class FakeResolver:
    """A feed whose states the test gives."""

    def __init__(self) -> None:
        self._update: Callable[[ServiceState], None] | None = None
        self._state = ServiceState()

    async def __call__(self, update: Callable[[ServiceState], None]) -> None:
        self._update = update
        update(self._state)
        await trio.sleep_forever()

    def set(self, *endpoints: Endpoint, departures: tuple[ExitInfo, ...] = ()) -> None:
        self._state = ServiceState(endpoints, departures)
        if self._update is not None:
            self._update(self._state)


def unix_endpoint(path: Path) -> Endpoint:
    return Endpoint(id=path.name, address=f"unix:{path}")


@asynccontextmanager
async def serve_on_socket(path: Path, server: Server | None = None) -> AsyncIterator[Server]:
    """Serve a name, the socket's, for the block."""
    server = server or Server(servicer_named(path.name))
    with unix_listener(path) as listener:
        async with trio.open_nursery() as nursery:
            await nursery.start(server.serve, listener)
            yield server
            nursery.cancel_scope.cancel()


async def call_echo(channel: Channel) -> str:
    return str((await channel.stub(EchoServiceStub).Echo(echo_request("?"))).message)
