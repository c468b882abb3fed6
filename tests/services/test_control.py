"""meshtrio.v1.Control over a mesh socket: each call, and what cannot be done."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import purerpc
import pytest
import trio
from echo.v1.echo_grpc import EchoServiceStub
from echo.v1.echo_pb2 import EchoRequest

from meshtrio import mesh
from meshtrio.client.mesh_connection import connect_to_mesh
from meshtrio.client.multicallable import DynamicStub
from meshtrio.config import load
from meshtrio.messages import control
from meshtrio.supervisor import events
from tests.support.in_process_mesh import RecordedMesh, run_mesh
from tests.support.mesh_processes import echo_plugin_table, plugin_table

GROUP = '\n[[group]]\nname = "both"\nmembers = ["echo", "other"]\nstrategy = "one-for-all"\n'


@asynccontextmanager
async def controlled(
    config: str, folder: Path, ready: int
) -> AsyncIterator[tuple[RecordedMesh, Any]]:
    """A mesh and a stub of its control."""
    async with run_mesh(config, folder) as watched:
        await watched.wait_for_event(events.Ready, count=ready)
        async with connect_to_mesh(watched.mesh.socket) as channel:
            with trio.fail_after(40):
                yield watched, DynamicStub(channel, control.DESCRIPTOR.services_by_name["Control"])


async def test_looking_at_a_mesh(short_dir: Path) -> None:
    config = echo_plugin_table(instances=2) + echo_plugin_table("other") + GROUP
    async with controlled(config, short_dir, 3) as (watched, stub):
        listed = (await stub.ListInstances(control.ListInstancesRequest())).instances
        assert [(each.name, each.instance) for each in listed] == [
            ("echo", 0), ("echo", 1), ("other", 0),
        ]  # fmt: skip
        request = control.ListInstancesRequest(names=["other"])
        assert [each.name for each in (await stub.ListInstances(request)).instances] == ["other"]
        one = await stub.GetInstance(control.GetInstanceRequest(name="plugin.echo", instance=1))
        assert (one.instance, one.state, one.pid) == (1, "ready", listed[1].pid)

        tree = await stub.GetTree(control.GetTreeRequest())
        assert (tree.kind, tree.name) == (control.Node.MESH, str(watched.mesh.socket))
        (group,) = tree.nodes
        assert (group.kind, group.name, group.policy) == (
            control.Node.GROUP, "both", "one-for-all",
        )  # fmt: skip
        assert [(node.name, len(node.instances)) for node in group.nodes] == [
            ("echo", 2), ("other", 1),
        ]  # fmt: skip

        async with watched.mesh.connect("plugin.other") as channel:
            for _ in range(3):
                await channel.stub(EchoServiceStub).Echo(EchoRequest(message="x"))
        found = await stub.GetStatistics(control.GetStatisticsRequest())
        assert found.total.states == {"ready": 3}
        assert [each.name for each in found.groups] == ["both"]
        other = found.instances[2]
        assert (other.load.started, other.load.ended, other.load.failed) == (3, 3, 0)
        assert other.resident > 1_000_000
        assert other.cpu > 0


async def test_watching_statistics_times_the_calls(short_dir: Path) -> None:
    async with controlled(echo_plugin_table(), short_dir, 1) as (watched, stub):
        async with watched.mesh.connect("plugin.echo") as channel, trio.open_nursery() as nursery:
            echoes = channel.stub(EchoServiceStub)

            async def call() -> None:
                while True:
                    await echoes.Echo(EchoRequest(message="x"))
                    await trio.sleep(0.01)

            nursery.start_soon(call)
            async with stub.WatchStatistics(
                control.WatchStatisticsRequest(interval=0.1)
            ) as statistics:
                async for found in statistics:
                    (instance,) = found.instances
                    if instance.load.HasField("median"):
                        break
            assert 0 < instance.load.median <= instance.load.p99 < 5
            nursery.cancel_scope.cancel()


async def test_a_plugin_that_does_not_tell_its_load_has_none(short_dir: Path) -> None:
    config = plugin_table("silent", "minimal.py")
    async with controlled(config, short_dir, 1) as (_, stub):
        (instance,) = (await stub.GetStatistics(control.GetStatisticsRequest())).instances
        assert instance.HasField("cpu")
        assert not instance.HasField("load")


async def test_telling_a_mesh_what_to_do(short_dir: Path) -> None:
    async with controlled(echo_plugin_table(), short_dir, 1) as (watched, stub):

        def states() -> list[str]:
            return [status.state.value for status in watched.mesh.instances()]

        await stub.Scale(control.ScaleRequest(name="echo", instances=2))
        assert states() == ["ready", "ready"]
        before = [status.pid for status in watched.mesh.instances()]
        await stub.Restart(control.RestartRequest(name="echo"))
        assert not {status.pid for status in watched.mesh.instances()} & set(before)
        drained = (await stub.Drain(control.DrainRequest(name="echo"))).instances
        assert [(each.instance, each.forced) for each in drained] == [(0, False), (1, False)]
        assert drained[0].ended == "exited with status 0"
        assert states() == ["stopped", "stopped"]
        await stub.Start(control.StartRequest(name="echo"))
        assert states() == ["ready", "ready"]
        await stub.Stop(control.StopRequest(name="echo"))
        assert states() == ["stopped", "stopped"]


async def test_a_reload_reads_the_file_again_or_another(short_dir: Path) -> None:
    (short_dir / "mesh.toml").write_text(echo_plugin_table())
    async with trio.open_nursery() as nursery:
        config = load(short_dir / "mesh.toml", runtime_dir=short_dir / "run")
        found = await nursery.start(mesh.main, config)
        async with connect_to_mesh(found.socket) as channel:
            stub = DynamicStub(channel, control.DESCRIPTOR.services_by_name["Control"])
            with trio.fail_after(40):
                (short_dir / "mesh.toml").write_text(
                    echo_plugin_table() + echo_plugin_table("more")
                )
                changed = await stub.Reload(control.ReloadRequest())
                assert list(changed.added) == ["more"]
                (short_dir / "mesh.toml").write_text("[[plugin]]\nname = 1\n")
                with pytest.raises(purerpc.InvalidArgumentError, match=r"mesh\.toml: plugin"):
                    await stub.Reload(control.ReloadRequest())
                other = short_dir / "other.toml"
                other.write_text(echo_plugin_table())
                changed = await stub.Reload(control.ReloadRequest(path=str(other)))
                assert list(changed.removed) == ["more"]
        nursery.cancel_scope.cancel()


async def test_what_cannot_be_done_is_told_with_the_reason(short_dir: Path) -> None:
    dying = plugin_table("dying", "-c", "raise SystemExit(3)", max_restarts=0)
    async with controlled(echo_plugin_table() + dying, short_dir, 1) as (_, stub):
        with pytest.raises(purerpc.NotFoundError, match="the plugins are: echo, dying"):
            await stub.Start(control.StartRequest(name="nope"))
        with pytest.raises(purerpc.NotFoundError, match="it has 1 of them"):
            await stub.GetInstance(control.GetInstanceRequest(name="echo", instance=1))
        with pytest.raises(purerpc.FailedPreconditionError, match="cannot scale echo to 0"):
            await stub.Scale(control.ScaleRequest(name="echo"))
        with pytest.raises(purerpc.AbortedError, match="dying/0"):
            await stub.Start(control.StartRequest(name="dying"))
        with pytest.raises(purerpc.NotFoundError):
            async for _ in stub.WatchEvents(control.WatchEventsRequest(names=["nope"])):
                pass


async def test_events_of_the_past_and_to_come(short_dir: Path) -> None:
    async with controlled(echo_plugin_table() + echo_plugin_table("other"), short_dir, 2) as (
        _,
        stub,
    ):
        past = stub.WatchEvents(control.WatchEventsRequest(names=["echo"], last=10))
        found = [each async for each in past]
        assert [each.kind for each in found] == ["starting", "ready"]
        assert found[1].text.startswith("ready after ")
        assert found[1].level == "INFO"
        assert found[0].time <= found[1].time
        request = control.WatchEventsRequest(names=["echo"], follow=True)
        async with stub.WatchEvents(request) as to_come, trio.open_nursery() as nursery:
            nursery.start_soon(stub.Stop, control.StopRequest(name="other"))
            nursery.start_soon(stub.Stop, control.StopRequest(name="echo"))
            kinds = [(await to_come.receive_message()).kind for _ in range(2)]
        assert kinds == ["stopping", "stopped"]


async def test_logs_of_the_past_and_to_come_with_none_in_between_lost(short_dir: Path) -> None:
    counting = plugin_table("counting", "numbered_lines.py", "500")
    async with controlled(counting, short_dir, 1) as (_, stub):
        numbers = []
        async with stub.ReadLogs(control.ReadLogsRequest(follow=True)) as lines:
            async for line in lines:
                assert (line.plugin, line.instance, line.stream) == ("counting", 0, "stdout")
                assert line.missed == 0
                numbers.append(int(line.text))
                if numbers[-1] == 499:
                    break
        assert numbers == list(range(numbers[0], 500))
        last = stub.ReadLogs(control.ReadLogsRequest(last=2))
        assert [line.text async for line in last] == ["498", "499"]
        since = stub.ReadLogs(control.ReadLogsRequest(since=line.time + 60))
        assert [line.text async for line in since] == []
