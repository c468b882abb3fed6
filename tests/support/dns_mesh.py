"""A mesh in the test's trio run that looks up a service in a dnsmasq, and servers for it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import trio

from meshtrio.client.channel import Channel
from meshtrio.config import MeshConfig
from meshtrio.discovery.endpoint import ServiceState
from meshtrio.rpc.server import Server
from meshtrio.transport.listener import tcp_listener
from tests.support.dns_server import DnsServer
from tests.support.in_process_mesh import RecordedMesh, run_mesh
from tests.support.mesh_processes import service_table
from tests.support.ports import find_free_port
from tests.support.servers import call_echo, servicer_named

NAME = "echo.internal"
ONE, TWO, THREE = "127.0.0.1", "127.0.0.2", "127.0.0.3"
TIMEOUT = 60


@asynccontextmanager
async def serve_on(*hosts: str, port: int | None = None) -> AsyncIterator[int]:
    """Serve on one port of several loopback addresses; each answers with its address."""
    port = port or find_free_port()
    async with trio.open_nursery() as nursery:
        for host in hosts:
            await nursery.start(_serve, host, port)
        yield port
        nursery.cancel_scope.cancel()


async def _serve(host: str, port: int, *, task_status: trio.TaskStatus[None]) -> None:
    with tcp_listener(f"tcp:{host}:{port}") as listener:
        task_status.started()
        await Server(servicer_named(host)).serve(listener)


def dns_config(dns: DnsServer, *endpoints: str, **settings: object) -> str:
    return f'[mesh.dns]\nservers = ["{dns.address}"]\n' + service_table(
        "s", endpoints=list(endpoints), **settings
    )


class MeshWithDns:
    """A mesh whose service "s" is looked up."""

    def __init__(self, running: RecordedMesh, channel: Channel) -> None:
        self.running = running
        self.channel = channel
        self.registry = running.mesh._registry

    def state(self) -> ServiceState:
        return self.registry.resolve("s")

    def hosts(self) -> dict[str, str]:
        """The ids of the endpoints by the host of the address."""
        return {each.address.split(":")[1]: each.id for each in self.state().endpoints}

    async def wait_for(self, condition: Callable[[], object], seconds: float = TIMEOUT) -> None:
        """Wait until a condition of the registry is true."""
        with trio.fail_after(seconds):
            while not condition():
                await self.registry.wait_changed(self.registry.revision)

    async def call(self) -> str:
        with trio.fail_after(TIMEOUT):
            return await call_echo(self.channel)

    async def wait_for_answer_from(self, host: str) -> None:
        with trio.fail_after(TIMEOUT):
            while await call_echo(self.channel) != host:
                await trio.lowlevel.checkpoint()


@asynccontextmanager
async def run_with_dns(config: str | MeshConfig, folder: Path) -> AsyncIterator[MeshWithDns]:
    async with run_mesh(config, folder) as running, running.mesh.connect("s") as channel:
        yield MeshWithDns(running, channel)
