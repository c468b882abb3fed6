"""grpc-go with etcd's own naming packages: it calls plugins, and is called."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio
from echo.v1.echo_grpc import EchoServiceStub
from echo.v1.echo_pb2 import EchoRequest

from meshtrio import mesh
from meshtrio.client.channel import Channel
from meshtrio.supervisor import events
from tests.support.etcd_server import EtcdCluster, run_etcd
from tests.support.nodes import make_echo_plugin, run_node, wait_until, watch_keys
from tests.tools import find_tool


@pytest.fixture
def etcd() -> Iterator[EtcdCluster]:
    with run_etcd() as cluster:
        yield cluster


async def call_by_grpc_go(etcd: EtcdCluster, service: str, count: int) -> list[dict[str, Any]]:
    command = [find_tool("grpc-go-etcd"), "client", "-etcd", etcd.endpoints[0]]
    command += ["-target", f"etcd:///meshtrio/{service}", "-count", str(count), "-interval", "1ms"]
    done = await trio.run_process(command, capture_stdout=True)
    return [json.loads(line) for line in done.stdout.splitlines()]


@contextmanager
def run_grpc_go_server(etcd: EtcdCluster, service: str, instance: int) -> Iterator[None]:
    command = [find_tool("grpc-go-etcd"), "server", "-etcd", etcd.endpoints[0]]
    command += ["-target", f"meshtrio/{service}", "-instance", str(instance)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline().startswith("registered ")
            yield
        finally:
            process.terminate()


async def instances_that_answer(channel: Channel, count: int) -> set[int]:
    stub = channel.stub(EchoServiceStub)
    return {(await stub.Echo(EchoRequest(message="?"))).instance for _ in range(count)}


async def test_it_finds_and_calls_the_plugin_that_it_names(
    short_dir: Path, etcd: EtcdCluster
) -> None:
    plugins = [make_echo_plugin(instances=2), attrs.evolve(make_echo_plugin(), name="other")]
    async with watch_keys(etcd) as view, run_node(short_dir, etcd, "a", *plugins) as a:
        await a.wait_for_event(events.Ready, count=3)
        names = ["plugin.echo/a/0", "plugin.echo/a/1", "plugin.other/a/0"]
        await view.wait_for_names(".nodes/a", *names)
        pids = {name: set[int]() for name in ("echo", "other")}
        for status in a.mesh.instances():
            assert status.pid is not None
            pids[status.name].add(status.pid)
        for name in ("echo", "other"):
            replies = await call_by_grpc_go(etcd, f"plugin.{name}", 50)
            assert {reply["code"] for reply in replies} == {"OK"}
            assert {reply["pid"] for reply in replies} == pids[name]


async def test_its_servers_are_called_by_their_name_in_etcd(
    short_dir: Path, etcd: EtcdCluster
) -> None:
    url = f"etcd://{etcd.endpoints[0].removeprefix('http://')}"
    async with run_node(short_dir, etcd, "a") as a:
        with ExitStack() as servers:
            servers.enter_context(run_grpc_go_server(etcd, "go.echo", 7))
            await wait_until(lambda: a.mesh._registry.has_service("go.echo"))
            async with (
                a.mesh.connect("go.echo") as inside,
                mesh.connect("go.echo", mesh_socket=a.mesh.socket) as beside,
                mesh.connect("go.echo", discovery=url) as without,
            ):
                for channel in (inside, beside, without):
                    assert await instances_that_answer(channel, 5) == {7}
                # Another one is found, and the calls are spread.
                with run_grpc_go_server(etcd, "go.echo", 8), trio.fail_after(60):
                    for channel in (inside, beside, without):
                        while await instances_that_answer(channel, 20) != {7, 8}:
                            pass
