"""Connections with a maximum age: clients find new instances, and no call is lost."""

from __future__ import annotations

import json
import threading
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import attrs
import grpc
import trio
from echo.v1 import echo_pb2 as pb
from echo.v1.echo_grpc import EchoServiceStub

from meshtrio import mesh
from meshtrio.client.channel import Channel, connect_to
from meshtrio.contract import TARGET_METADATA_KEY
from tests.support.address_records import serve_addresses
from tests.support.grpcio_methods import GrpcioEchoStub
from tests.support.mesh_processes import (
    echo_plugin_table,
    plugin_table,
    serve_mesh,
    wait_until,
)
from tests.support.ports import find_free_port

AGE = 1
"""Seconds, as often as ages are checked."""
CALLS_AT_ONCE = 3
ROUND_ROBIN = json.dumps({"loadBalancingConfig": [{"round_robin": {}}]})


def gateway_table(host: str, port: int, **settings: Any) -> str:
    values = {"max_connection_age": AGE, **settings}
    lines = [f"{key} = {value}" for key, value in values.items()]
    listen = [f'listen = "tcp://{host}:{port}"', 'security = "plaintext"']
    return "\n".join(["[mesh.gateway]", *listen, *lines, ""])


class GrpcioCaller:
    """A thread that calls Echo again and again."""

    def __init__(self) -> None:
        self.answered: Counter[int] = Counter()
        """Numbers of replies, by the pid of the plugin."""
        self.failures: list[str] = []
        self.stopping = threading.Event()

    def call(self, target: str, options: list[tuple[str, Any]]) -> None:
        with grpc.insecure_channel(target, options) as channel:
            stub = GrpcioEchoStub(channel)
            while not self.stopping.is_set():
                try:
                    reply = stub.Echo(pb.EchoRequest(message="x"), timeout=30, wait_for_ready=True)
                    self.answered[reply.pid] += 1
                except grpc.RpcError as exc:
                    self.failures.append(str(exc))


@contextmanager
def call_with_grpcio(target: str) -> Iterator[GrpcioCaller]:
    """Call during the block."""
    caller = GrpcioCaller()
    options: list[tuple[str, Any]] = [
        ("grpc.use_local_subchannel_pool", 1),
        ("grpc.dns_min_time_between_resolutions_ms", 100),
        ("grpc.service_config", ROUND_ROBIN),
    ]
    thread = threading.Thread(target=caller.call, args=(target, options))
    thread.start()
    try:
        yield caller
    finally:
        caller.stopping.set()
        thread.join(60)


def test_a_grpcio_client_of_a_name_finds_a_new_mesh(short_dir: Path) -> None:
    port, hosts = find_free_port(), ("127.0.0.1", "127.0.0.2")
    with ExitStack() as stack:
        records = stack.enter_context(serve_addresses(hosts[0]))

        def start_mesh(host: str) -> None:
            folder = short_dir / host
            folder.mkdir()
            config = gateway_table(host, port) + echo_plugin_table()
            stack.enter_context(serve_mesh(folder, config, min_ready=1))

        start_mesh(hosts[0])
        target = f"dns://127.0.0.1:{records.port}/echo.test:{port}"
        caller = stack.enter_context(call_with_grpcio(target))
        wait_until(lambda: caller.answered)
        start_mesh(hosts[1])
        assert len(caller.answered) == 1
        records.addresses = list(hosts)
        wait_until(lambda: len(caller.answered) == 2)
        assert caller.failures == []


@attrs.define
class Caller:
    """Calls through one channel, and the connections that the plugins have seen."""

    connections: set[str] = attrs.field(factory=set)
    """Those to plugins: of the channel, or of the gateway."""
    clients: set[str] = attrs.field(factory=set)
    """The names of the channel's connections to the gateway."""
    done: trio.Event = attrs.field(factory=trio.Event)
    """There were enough of both."""

    async def call(self, channel: Channel, min_connections: int, min_clients: int) -> None:
        stub = channel.stub(EchoServiceStub)
        while True:  # An error fails the test.
            reply = await stub.Echo(pb.EchoRequest(message="x"))
            connection, _, client = reply.message.partition("|")
            self.connections.add(connection)
            self.clients.add(client)
            if len(self.connections) >= min_connections and len(self.clients) >= min_clients:
                self.done.set()


async def stay_in_call(channel: Channel, release: trio.Event, replies: list[str]) -> None:
    """Send a message at the start of a call, and one at its end."""

    async def requests() -> AsyncIterator[pb.EchoRequest]:
        yield pb.EchoRequest(message="first")
        await release.wait()
        yield pb.EchoRequest(message="last")

    chat = channel.stub(EchoServiceStub).Chat(requests())
    replies += [reply.message async for reply in chat]


@asynccontextmanager
async def open_channels(mesh_socket: Path, gateway: str) -> AsyncIterator[dict[str, Channel]]:
    """Open channels to both plugins, straight and through the gateway's port."""
    async with AsyncExitStack() as stack:
        channels = {}
        for name in ("tcp", "unix"):
            service = f"plugin.{name}"
            straight = mesh.connect(service, mesh_socket=mesh_socket)
            forwarded = connect_to(gateway, metadata=[(TARGET_METADATA_KEY, service)])
            channels[name] = await stack.enter_async_context(straight)
            channels[f"{name} by gateway"] = await stack.enter_async_context(forwarded)
        yield channels


async def test_no_call_is_lost_over_many_ages(short_dir: Path) -> None:
    gateway_port, port, _ = find_free_port(), find_free_port(), find_free_port()
    script = ("connection_echo.py",)
    aged = {"max_connection_age": AGE, "liveness": {"interval": 0.2, "timeout": 5.0}}
    config = gateway_table("127.0.0.1", gateway_port)
    config += plugin_table("tcp", *script, **aged, listen=f"tcp://127.0.0.1:{port}")
    config += plugin_table("unix", *script, **aged)
    wanted = {
        "tcp": (5, 1),
        "unix": (5, 1),
        "tcp by gateway": (5, 5),
        # The mesh's connection to a plugin on a Unix socket has no maximum age.
        "unix by gateway": (1, 5),
    }
    callers = {name: Caller() for name in wanted}
    replies: list[str] = []
    release, gateway = trio.Event(), f"tcp:127.0.0.1:{gateway_port}"
    with serve_mesh(short_dir, config, min_ready=2) as serving, trio.fail_after(60):
        async with open_channels(serving.socket, gateway) as channels:
            async with trio.open_nursery() as calling:
                for name, caller in callers.items():
                    for _ in range(CALLS_AT_ONCE):
                        calling.start_soon(caller.call, channels[name], *wanted[name])
                async with trio.open_nursery() as staying:
                    staying.start_soon(stay_in_call, channels["tcp by gateway"], release, replies)
                    for caller in callers.values():
                        await caller.done.wait()
                    release.set()
                calling.cancel_scope.cancel()
        assert [row["restarts"] for row in serving.ps()] == [0, 0]
        assert "health check" not in serving.log
    assert replies == ["first", "last"]
    assert len(callers["unix by gateway"].connections) == 1
