"""Plugins that are started on demand, on meshes that find each other in etcd."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio
from echo.v1.echo_grpc import EchoServiceStub
from echo.v1.echo_pb2 import EchoRequest

from meshtrio import mesh
from meshtrio.client.channel import Channel
from meshtrio.config import PluginConfig, StartMethod
from meshtrio.supervisor import events
from tests.support.etcd_server import EtcdCluster, run_etcd
from tests.support.in_process_mesh import RecordedMesh
from tests.support.nodes import SERVICE, make_echo_plugin, run_node, wait_until

ROUNDS = 5


@pytest.fixture
def etcd() -> Iterator[EtcdCluster]:
    with run_etcd() as cluster:
        yield cluster


def make_idle_plugin(**settings: Any) -> PluginConfig:
    return make_echo_plugin(start=StartMethod.ON_DEMAND, listen_fds=True, **settings)


async def echo(channel: Channel, **options: Any) -> int:
    """Call the plugin; return the pid that has answered."""
    reply = await channel.stub(EchoServiceStub).Echo(EchoRequest(message="hi"), **options)
    return int(reply.pid)


def count_starts(watched: RecordedMesh) -> int:
    return len(watched.find_events(events.Starting))


def is_idle(watched: RecordedMesh) -> bool:
    return [each.state.value for each in watched.mesh.instances()] == ["idle"]


def find_priorities(watched: RecordedMesh) -> list[int]:
    """Return the priorities of the endpoints that other nodes have."""
    registry = watched.mesh._registry
    if not registry.has_service(SERVICE):
        return []
    return [each.priority for each in registry.resolve(SERVICE).endpoints if each.node]


@pytest.mark.parametrize("wait_for_ready", [None, False])
async def test_calls_of_another_node_start_it(
    short_dir: Path, etcd: EtcdCluster, wait_for_ready: bool | None
) -> None:
    options = {} if wait_for_ready is None else {"wait_for_ready": wait_for_ready}
    async with (
        run_node(short_dir, etcd, "a", make_idle_plugin(idle_timeout=0.2)) as a,
        run_node(short_dir, etcd, "b") as b,
    ):
        await wait_until(lambda: find_priorities(b) == [3])
        host = etcd.endpoints[0].removeprefix("http://")
        async with (
            b.mesh.connect(SERVICE) as inside,
            mesh.connect(SERVICE, mesh_socket=b.mesh.socket) as beside,
            mesh.connect(SERVICE, discovery=f"etcd://{host}") as without,
        ):
            assert await inside.is_reachable()
            assert (is_idle(a), count_starts(a)) == (True, 0)
            for number in range(ROUNDS):
                for channel in (inside, beside, without):
                    await echo(channel, **options)
                    assert count_starts(a) > number
                    await wait_until(lambda: is_idle(a))


async def test_no_call_of_another_node_is_lost_while_it_stops_and_starts(
    short_dir: Path, etcd: EtcdCluster
) -> None:
    async with (
        run_node(short_dir, etcd, "a", make_idle_plugin(idle_timeout=0.1)) as a,
        run_node(short_dir, etcd, "b") as b,
    ):
        await wait_until(lambda: find_priorities(b))
        async with b.mesh.connect(SERVICE) as channel:
            for number in range(40):
                await echo(channel, wait_for_ready=False)
                await trio.sleep(0.08 + number % 12 * 0.012)  # around the time of its stop
        assert count_starts(a) > 1


async def test_a_mesh_starts_its_own_plugin_before_that_of_another_node(
    short_dir: Path, etcd: EtcdCluster
) -> None:
    async with (
        run_node(short_dir, etcd, "a", make_idle_plugin()) as a,
        run_node(short_dir, etcd, "b", make_idle_plugin()) as b,
    ):
        await wait_until(lambda: find_priorities(a) == find_priorities(b) == [3])
        async with (
            b.mesh.connect(SERVICE) as inside,
            mesh.connect(SERVICE, mesh_socket=b.mesh.socket) as beside,
        ):
            pids = {await echo(channel) for channel in (inside, beside)}
            assert pids == {b.mesh.instances()[0].pid}
            assert (is_idle(a), count_starts(b)) == (True, 1)
            await b.mesh.stop("echo")
            await echo(beside)
            assert count_starts(a) == 1


@pytest.mark.parametrize("is_removed", [False, True])
async def test_a_plugin_whose_service_a_reload_removes_is_called_on_another_node(
    short_dir: Path, etcd: EtcdCluster, is_removed: bool
) -> None:
    without_service = make_idle_plugin(service=False, ready="started")
    async with (
        run_node(short_dir, etcd, "a", make_idle_plugin()) as a,
        run_node(short_dir, etcd, "b", make_idle_plugin()) as b,
        b.mesh.connect(SERVICE) as channel,
    ):
        await wait_until(lambda: find_priorities(b) == [3])
        await b.mesh.reload(
            attrs.evolve(b.mesh.config, plugins=() if is_removed else [without_service])
        )
        with trio.fail_after(60):
            await echo(channel)
        assert count_starts(a) == 1


async def test_a_node_where_it_is_ready_is_called_before_one_where_it_is_idle(
    short_dir: Path, etcd: EtcdCluster
) -> None:
    async with (
        run_node(short_dir, etcd, "a", make_echo_plugin(), zone="z") as a,
        run_node(short_dir, etcd, "b", make_idle_plugin(), zone="y") as b,
        run_node(short_dir, etcd, "c", zone="y") as c,
    ):
        await wait_until(lambda: sorted(find_priorities(c)) == [2, 3])
        async with c.mesh.connect(SERVICE) as channel:
            await wait_until(lambda: len(channel.picker.ready) == 1)
            await wait_until(lambda: channel.picker.ready[0].endpoint.node == "a")
            assert {await echo(channel) for _ in range(20)} == {a.mesh.instances()[0].pid}
            assert is_idle(b)
            await a.mesh.stop("echo")
            await echo(channel)
            assert count_starts(b) == 1
