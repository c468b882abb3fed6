"""Meshes find each other's services in etcd, whatever happens to it."""

from __future__ import annotations

import json
import logging
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import purerpc
import pytest
import trio
from echo.v1.echo_grpc import EchoServiceStub
from echo.v1.echo_pb2 import EchoRequest

from meshtrio import mesh
from meshtrio.client.channel import Channel
from meshtrio.discovery.etcd_entries import EndpointEntry
from meshtrio.supervisor import events
from tests.support.etcd_server import EtcdCluster, in_thread, run_etcd, to_base64
from tests.support.in_process_mesh import RecordedMesh
from tests.support.mesh_processes import echo_plugin_table, serve_mesh
from tests.support.nodes import (
    SERVICE,
    TTL,
    make_echo_plugin,
    node_tables,
    run_node,
    wait_until,
    watch_keys,
)


@pytest.fixture
def etcd() -> Iterator[EtcdCluster]:
    with run_etcd() as cluster:
        yield cluster


async def echo(channel: Channel, message: str = "hi") -> int:
    """Call the plugin; return the pid that has answered."""
    reply = await channel.stub(EchoServiceStub).Echo(EchoRequest(message=message))
    assert reply.message == message
    return int(reply.pid)


def node_endpoints(watched: RecordedMesh) -> list[str]:
    registry = watched.mesh._registry
    if not registry.has_service(SERVICE):
        return []
    return [each.node for each in registry.resolve(SERVICE).endpoints if each.node]


async def wait_for_nodes(watched: RecordedMesh, *nodes: str) -> None:
    """Wait until a mesh knows the endpoints of these nodes, and of no others."""
    await wait_until(lambda: sorted(node_endpoints(watched)) == sorted(nodes))


@asynccontextmanager
async def connect_to_node(watched: RecordedMesh, node: str) -> AsyncIterator[Channel]:
    """Open a channel once a mesh knows the endpoint of another node."""
    await wait_for_nodes(watched, node)
    async with watched.mesh.connect(SERVICE) as channel:
        yield channel


async def test_programs_everywhere_call_a_plugin_of_another_node(
    short_dir: Path, etcd: EtcdCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with (
        run_node(short_dir, etcd, "a", make_echo_plugin()) as a,
        run_node(short_dir, etcd, "b") as b,
    ):
        await wait_for_nodes(b, "a")
        (status,) = a.mesh.instances()
        host = etcd.endpoints[0].removeprefix("http://")
        async with (
            b.mesh.connect(SERVICE) as inside,
            mesh.connect(SERVICE, mesh_socket=b.mesh.socket) as beside,
            mesh.connect(SERVICE, discovery=f"etcd://{host}") as without,
        ):
            for channel in (inside, beside, without):
                assert await echo(channel) == status.pid
        monkeypatch.setenv("MESH_DISCOVERY", f"etcd://{host}")
        async with mesh.connect(SERVICE) as by_environment:
            assert await echo(by_environment) == status.pid
        # A plugin of a mesh asks that.
        monkeypatch.setenv("MESH_SOCKET", str(b.mesh.socket))
        monkeypatch.setenv("MESH_DISCOVERY", "etcd://nowhere.invalid")
        async with mesh.connect(SERVICE) as by_mesh:
            assert await echo(by_mesh) == status.pid
        (endpoint,) = (await b.resolve(SERVICE)).endpoints
        assert (endpoint.node, endpoint.is_gateway, endpoint.priority) == ("a", True, 1)


async def test_a_plugins_own_instances_are_called_first_and_again_when_they_return(
    short_dir: Path, etcd: EtcdCluster
) -> None:
    async with (
        run_node(short_dir, etcd, "a", make_echo_plugin()) as a,
        run_node(short_dir, etcd, "b", make_echo_plugin()) as b,
        b.mesh.connect(SERVICE) as channel,
    ):
        await wait_for_nodes(b, "a")
        await b.wait_for_event(events.Ready)
        (far,), (near,) = a.mesh.instances(), b.mesh.instances()
        await wait_until_answered_by(channel, near.pid)  # The channel has connected to it.
        assert {await echo(channel) for _ in range(20)} == {near.pid}
        await b.mesh.stop("echo")
        assert {await echo(channel) for _ in range(20)} == {far.pid}
        await b.mesh.start("echo")
        (near,) = b.mesh.instances()
        await wait_until_answered_by(channel, near.pid)
        assert {await echo(channel) for _ in range(20)} == {near.pid}


async def wait_until_answered_by(channel: Channel, pid: int | None) -> None:
    with trio.fail_after(30):
        while await echo(channel) != pid:
            await trio.lowlevel.checkpoint()


async def test_what_etcd_has_is_what_grpc_go_reads(short_dir: Path, etcd: EtcdCluster) -> None:
    async with (
        watch_keys(etcd) as view,
        run_node(short_dir, etcd, "a", make_echo_plugin(instances=2), zone="z") as a,
    ):
        await view.wait_for_names(".nodes/a", "plugin.echo/a/0", "plugin.echo/a/1")
        value = json.loads(view.keys["meshtrio/plugin.echo/a/1"].value)
        advertised = a.mesh.config.discovery.advertise or ""
        assert value == {
            "Op": 0,
            "Addr": advertised.removeprefix("tcp://"),
            "Metadata": {
                "service": "plugin.echo",
                "node": "a",
                "instance": 1,
                "weight": 1,
                "zone": "z",
                "plugin": "echo",
                "gateway": True,
            },
        }
        leases = {each.lease for each in view.keys.values()}
        assert len(leases) == 1
        assert leases != {0}
        await a.mesh.scale("echo", 1)
        await view.wait_for_names(".nodes/a", "plugin.echo/a/0")


async def test_a_key_is_deleted_before_its_instance_is_drained(
    short_dir: Path, etcd: EtcdCluster
) -> None:
    async with watch_keys(etcd) as view, run_node(short_dir, etcd, "a", make_echo_plugin()) as a:
        await view.wait_for_names(".nodes/a", "plugin.echo/a/0")
        left = []

        def on_event(event: events.LifecycleEvent) -> None:
            if isinstance(event, events.Stopped):
                left.extend(view.keys)

        a.mesh.subscribe(on_event)
        # A stopped etcd delays the stop of a plugin for a second at most.
        await a.mesh.stop("echo")
        assert left == ["meshtrio/.nodes/a"]
        await a.mesh.start("echo")
        await view.wait_for_names(".nodes/a", "plugin.echo/a/0")
        etcd.members[0].stop()
        with trio.fail_after(20):
            await a.mesh.stop("echo")
        etcd.members[0].resume()
        await view.wait_for_names(".nodes/a")
    await view_is_empty(etcd)


async def view_is_empty(etcd: EtcdCluster) -> None:
    """Wait until nothing is left of the nodes: the lease was revoked."""
    async with watch_keys(etcd) as view:
        await view.wait_for_names()


async def test_rolling_restarts_lose_no_call_of_another_node(
    short_dir: Path, etcd: EtcdCluster
) -> None:
    async with (
        run_node(short_dir, etcd, "a", make_echo_plugin(instances=2)) as a,
        run_node(short_dir, etcd, "b") as b,
        connect_to_node(b, "a") as channel,
        trio.open_nursery() as nursery,
    ):
        pids: set[int] = set()

        async def call_on() -> None:
            while True:
                pids.add(await echo(channel))

        for _ in range(5):
            nursery.start_soon(call_on)
        before = {each.pid for each in a.mesh.instances()}
        await wait_until(lambda: before <= pids)
        await a.mesh.restart("echo")
        after = {each.pid for each in a.mesh.instances()}
        await wait_until(lambda: after <= pids)
        nursery.cancel_scope.cancel()


async def test_a_name_that_is_taken_is_refused_until_it_is_free(
    short_dir: Path, etcd: EtcdCluster, caplog: pytest.LogCaptureFixture
) -> None:
    (short_dir / "second").mkdir()
    async with watch_keys(etcd) as view:
        async with (
            run_node(short_dir, etcd, "a", make_echo_plugin()) as first,
            run_node(short_dir / "second", etcd, "a", make_echo_plugin(instances=2)) as second,
        ):
            await second.wait_for_event(events.Ready, count=2)
            await view.wait_for_names(".nodes/a", "plugin.echo/a/0")
            await wait_until(lambda: "another mesh has the name 'a'" in caplog.text)
            # It works, only not for others, and takes over as soon as the first has ended.
            async with second.mesh.connect(SERVICE) as channel:
                await echo(channel)
            first.stop()
            await view.wait_for_names(".nodes/a", "plugin.echo/a/0", "plugin.echo/a/1")


async def test_keys_return_with_another_lease_when_theirs_is_revoked(
    short_dir: Path, etcd: EtcdCluster
) -> None:
    names = (".nodes/a", "plugin.echo/a/0")
    async with watch_keys(etcd) as view, run_node(short_dir, etcd, "a", make_echo_plugin()):
        await view.wait_for_names(*names)
        (lease,) = {each.lease for each in view.keys.values()}
        await in_thread(lambda: etcd.call("lease/revoke", ID=lease))
        await view.wait_until(
            lambda keys: len(keys) == 2 and lease not in {each.lease for each in keys.values()}
        )


async def test_a_node_whose_own_key_was_deleted_claims_its_name_again(
    short_dir: Path, etcd: EtcdCluster
) -> None:
    names = (".nodes/a", "plugin.echo/a/0")
    async with watch_keys(etcd) as view, run_node(short_dir, etcd, "a", make_echo_plugin()):
        await view.wait_for_names(*names)
        before = view.keys["meshtrio/.nodes/a"].create_revision
        await in_thread(lambda: etcd.delete("meshtrio/.nodes/a"))
        await view.wait_until(
            lambda keys: len(keys) == 2 and keys["meshtrio/.nodes/a"].create_revision > before
        )


async def test_keys_that_others_make_in_its_name_are_deleted(
    short_dir: Path, etcd: EtcdCluster
) -> None:
    def make_key() -> int:
        """Make the key, and return the revision of etcd then."""
        value = EndpointEntry("plugin.echo", "tcp:10.0.0.1:1", "a", 7).make_value()
        fields = {"key": to_base64("meshtrio/plugin.echo/a/7"), "value": to_base64(value)}
        return int(etcd.call("kv/put", **fields)["header"]["revision"])

    make_key()  # Before the node claims its name, and again later.
    async with watch_keys(etcd) as view, run_node(short_dir, etcd, "a", make_echo_plugin()):
        await view.wait_for_names(".nodes/a", "plugin.echo/a/0")
        made_at = await in_thread(make_key)
        await view.wait_for_names(".nodes/a", "plugin.echo/a/0", after=made_at)


@pytest.mark.parametrize("how", ["deleted", "overwritten", "garbage", "moved to another lease"])
async def test_keys_that_others_change_are_put_again(
    short_dir: Path, etcd: EtcdCluster, how: str
) -> None:
    key = "meshtrio/plugin.echo/a/0"
    async with watch_keys(etcd) as view, run_node(short_dir, etcd, "a", make_echo_plugin()):
        await view.wait_for_names(".nodes/a", "plugin.echo/a/0")
        before = view.keys[key]

        def change() -> None:
            if how == "deleted":
                etcd.delete(key)
            else:
                value = before.value.replace(b'"weight":1', b'"weight":7')
                value = b"garbage" if how == "garbage" else value
                etcd.put(key, before.value if how.startswith("moved") else value)

        await in_thread(change)
        await view.wait_until(
            lambda keys: (
                key in keys
                and keys[key].mod_revision > before.mod_revision
                and (keys[key].value, keys[key].lease) == (before.value, before.lease)
            )
        )


async def test_a_mesh_starts_without_etcd_and_joins_later(
    short_dir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with run_etcd() as etcd:
        etcd.members[0].kill()
        async with (
            run_node(short_dir, etcd, "a", make_echo_plugin()) as a,
            run_node(short_dir, etcd, "b") as b,
        ):
            await a.wait_for_event(events.Ready)
            await wait_until(lambda: etcd.endpoints[0] in caplog.text)
            etcd.start(etcd.members[0])
            await wait_for_nodes(b, "a")


async def test_callers_do_not_notice_that_etcd_is_away(short_dir: Path, etcd: EtcdCluster) -> None:
    async with (
        run_node(short_dir, etcd, "a", make_echo_plugin()) as a,
        run_node(short_dir, etcd, "b") as b,
        connect_to_node(b, "a") as channel,
    ):
        await echo(channel)
        etcd.members[0].kill()
        # Longer than the lease, whose loss is no reason to forget what was known.
        with trio.move_on_after(TTL + 1):
            while True:
                await echo(channel)
        assert node_endpoints(b) == ["a"]
        # What happens meanwhile is known when etcd is back, without its data.
        (status,) = a.mesh.instances()
        await a.mesh.restart("echo")
        assert await echo(channel) != status.pid
        etcd.start(etcd.members[0])
        async with watch_keys(etcd) as view:
            await view.wait_for_names(".nodes/a", ".nodes/b", "plugin.echo/a/0")
            assert node_endpoints(b) == ["a"]


async def test_garbage_of_others_harms_nothing_and_is_logged_once(
    short_dir: Path, etcd: EtcdCluster, caplog: pytest.LogCaptureFixture
) -> None:
    async with (
        run_node(short_dir, etcd, "a", make_echo_plugin()),
        run_node(short_dir, etcd, "b") as b,
    ):
        await wait_for_nodes(b, "a")

        def write_garbage() -> None:
            etcd.put("meshtrio/plugin.echo/x/0", "garbage")
            etcd.put("meshtrio/plugin.echo/x/1", "x" * 1_000_000)
            etcd.put("meshtrio/.nodes/x", "[]")
            etcd.put(f"meshtrio/plugin.echo/{'k' * 1_000_000}", '{"Addr":"10.0.0.1:1"}')
            etcd.put("meshtrio/\x1b[31mred\n/x", '{"Addr":"10.0.0.1:1"}')
            etcd.put(b"meshtrio/plugin.echo/\xff", "garbage")
            etcd.put("meshtrio/", "garbage")
            etcd.put("meshtrio/plugin.other/x", '{"Addr":"10.0.0.1:1"}')

        await in_thread(write_garbage)
        await wait_until(lambda: b.mesh._registry.has_service("plugin.other"))
        assert node_endpoints(b) == ["a"]
        async with b.mesh.connect(SERVICE) as channel:
            await echo(channel)
    problems = [r.getMessage() for r in caplog.records if "ignoring key" in r.getMessage()]
    found = [p for p in problems if "plugin.echo/x/1" in p]
    assert len(found) == 2  # one of each node
    assert "1,000,000 bytes" in found[0]
    assert any("the key has 1,000,021 characters" in problem for problem in problems)
    assert all(len(problem) < 500 and problem.isprintable() for problem in problems)


async def test_a_mesh_that_was_stopped_for_longer_than_its_lease_joins_again(
    short_dir: Path, etcd: EtcdCluster
) -> None:
    config = node_tables(etcd, "a") + echo_plugin_table()
    names = ".nodes/a", "plugin.echo/a/0"
    async with watch_keys(etcd) as view:
        with serve_mesh(short_dir, config, min_ready=1) as served:
            await view.wait_for_names(*names)
            (lease,) = {each.lease for each in view.keys.values()}
            served.process.send_signal(signal.SIGSTOP)
            await view.wait_for_names()
            served.process.send_signal(signal.SIGCONT)
            await view.wait_for_names(*names)
            assert lease not in {each.lease for each in view.keys.values()}
            served.process.kill()
            await view.wait_for_names()


async def test_a_service_that_is_gone_is_waited_for_and_then_unknown(
    short_dir: Path, etcd: EtcdCluster, short_absence: None
) -> None:
    async with run_node(short_dir, etcd, "b") as b:
        async with run_node(short_dir, etcd, "a", make_echo_plugin()):
            await wait_for_nodes(b, "a")
        await wait_for_nodes(b)
        assert b.mesh._registry.is_managed(SERVICE)
        await wait_until(lambda: not b.mesh._registry.has_service(SERVICE))
        with pytest.raises(purerpc.NotFoundError):
            async with mesh.connect(SERVICE, mesh_socket=b.mesh.socket):
                pass


@pytest.fixture
def short_absence(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shorten the time for which a service without endpoints is waited for."""
    monkeypatch.setattr("meshtrio.cluster.follower._ABSENCE_TIMEOUT", 1.0)


def test_members_without_tls_off_this_machine_are_warned_of(
    caplog: pytest.LogCaptureFixture, short_dir: Path
) -> None:
    async def main() -> None:
        with run_etcd() as etcd, caplog.at_level(logging.WARNING):
            unreachable = [*etcd.endpoints, "http://192.0.2.1:2379"]
            async with run_node(short_dir, etcd, "a", etcd=unreachable):
                await wait_until(lambda: "192.0.2.1" in caplog.text)

    trio.run(main)
    assert "etcd at http://192.0.2.1:2379 is spoken to without TLS" in caplog.text
