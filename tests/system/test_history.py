"""The history of real processes, by meshtrio.v1.Control and the commands; over an upgrade, too."""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import trio
from echo.v1.echo_grpc import EchoServiceStub
from echo.v1.echo_pb2 import EchoRequest

from meshtrio.client.mesh_connection import connect_to_mesh
from meshtrio.client.multicallable import DynamicStub
from meshtrio.messages import control
from meshtrio.supervisor import events
from tests.support.cli_commands import group_table, run_json_command
from tests.support.in_process_mesh import RecordedMesh, run_mesh
from tests.support.mesh_processes import (
    MINIMAL_COMMAND,
    echo_plugin_table,
    plugin_table,
    serve_mesh,
    wait_until,
)
from tests.support.upgrades import upgrade

SOON = {"initial": 0.01, "maximum": 0.01}
TASK = '[[task]]\nname = "job"\ncommand = ["sh", "-c", "echo failing >&2; exit 4"]\nretries = 1\n'


@asynccontextmanager
async def controlled(config: str, folder: Path) -> AsyncIterator[tuple[RecordedMesh, Any]]:
    async with run_mesh(config, folder) as watched:
        async with connect_to_mesh(watched.mesh.socket) as channel:
            with trio.fail_after(60):
                yield watched, DynamicStub(channel, control.DESCRIPTOR.services_by_name["Control"])


async def get_lives(stub: Any, *names: str) -> list[control.Life]:
    reply = await stub.GetHistory(control.GetHistoryRequest(names=names))
    return [*reply.lives]


def kinds(life: control.Life) -> list[str]:
    return [moment.kind for moment in life.moments]


async def test_lives_of_a_plugin_that_is_killed_renewed_and_stopped(short_dir: Path) -> None:
    table = plugin_table("a", *MINIMAL_COMMAND, backoff=SOON)
    async with controlled(table, short_dir) as (watched, stub):
        await watched.wait_for_event(events.Ready)
        (first,) = await get_lives(stub)
        os.kill(first.pid, signal.SIGKILL)
        await watched.wait_for_event(events.Ready, count=2)
        await stub.Restart(control.RestartRequest(name="a"))
        await stub.Stop(control.StopRequest(name="a"))
        killed, renewed, stopped = await get_lives(stub, "plugin.a")
        assert [each.follows for each in (killed, renewed, stopped)] == [
            "start", "restart", "renewal",
        ]  # fmt: skip
        assert (killed.signal, killed.reason) == (9, "was killed by SIGKILL")
        assert kinds(killed) == ["ready", "exited", "restarting"]
        assert kinds(renewed) == ["ready", "renewing", "draining", "exited"]
        assert stopped.started < renewed.ended < stopped.ended
        assert [each.outcome for each in (killed, renewed, stopped)] == [
            "failed", "stopped", "stopped",
        ]  # fmt: skip
        assert [each.next_state for each in (killed, renewed, stopped)] == [
            "backoff", "", "stopped",
        ]  # fmt: skip


async def test_lives_of_a_group_and_of_one_that_gives_up(short_dir: Path) -> None:
    config = plugin_table(
        "bad", "startup_faults.py", "exit-at-once", max_restarts=1, backoff=SOON, escalate="group"
    )
    config += plugin_table("good", *MINIMAL_COMMAND)
    config += group_table("both", "good", "bad", strategy="one-for-all", escalate="mesh")
    config = config.replace(
        'strategy = "one-for-all"', 'strategy = "one-for-all"\nmax_restarts = 9'
    )
    async with controlled(config, short_dir) as (watched, stub):
        await watched.wait_for_event(events.GroupRestarting)
        await watched.wait_for_event(events.Starting, plugin="bad", count=3)
        lives = await get_lives(stub, "both")
        bad = [each for each in lives if each.plugin == "bad"]
        assert [each.follows for each in bad[:3]] == ["start", "restart", "group-restart"]
        assert kinds(bad[1]) == ["exited", "gave-up", "group-restarting"]
        assert list(bad[0].last_lines) == ["about to give up"]
        good = [each for each in lives if each.plugin == "good"]
        # It is restarted with the other one, and then with the group.
        assert {each.follows for each in good[1:]} <= {"group-restart"}


async def test_lives_of_a_task(short_dir: Path) -> None:
    async with controlled(TASK, short_dir) as (watched, stub):
        await watched.wait_for_event(events.TaskFailed)
        lives = await get_lives(stub, "job")
        assert [(each.task, each.follows, each.exit_status) for each in lives] == [
            (True, "task", 4), (True, "retry", 4),
        ]  # fmt: skip
        assert [list(each.last_lines) for each in lives] == [["failing"], ["failing"]]
        assert [each.next_state for each in lives] == ["backoff", "failed"]


async def test_lives_of_a_plugin_on_demand(short_dir: Path) -> None:
    table = echo_plugin_table(start="on-demand", listen_fds=True, idle_timeout=0.1)
    async with controlled(table, short_dir) as (watched, stub):
        async with watched.mesh.connect("plugin.echo") as channel:
            await channel.stub(EchoServiceStub).Echo(EchoRequest(message="x"))
        await watched.wait_for_event(events.Stopped)
        (life,) = await get_lives(stub)
        assert (life.follows, life.outcome, life.next_state) == ("demand", "stopped", "idle")


async def test_changes_are_watched(short_dir: Path) -> None:
    table = plugin_table("a", *MINIMAL_COMMAND, backoff=SOON) + plugin_table("b", *MINIMAL_COMMAND)
    async with controlled(table, short_dir) as (watched, stub):
        await watched.wait_for_event(events.Ready, count=2)
        request = control.WatchHistoryRequest(names=["a"], follow=True)
        async with stub.WatchHistory(request) as call:
            first = await anext(aiter(call))
            (life,) = first.lives
            assert (life.plugin, first.oldest <= life.started <= first.time) == ("a", True)
            os.kill(life.pid, signal.SIGKILL)
            outcomes: dict[int, str] = {}
            async for update in call:
                (life,) = update.lives
                assert (life.plugin, update.missed) == ("a", 0)
                outcomes[life.id] = life.outcome
                if len(outcomes) == 2 and kinds(life) == ["ready"]:
                    break
        assert [*outcomes.values()] == ["failed", ""]


async def test_plugins_that_the_config_no_longer_has(short_dir: Path) -> None:
    table = plugin_table("a", *MINIMAL_COMMAND)
    async with controlled(table, short_dir) as (watched, stub):
        await watched.wait_for_event(events.Ready)
        other = short_dir / "other.toml"
        head = f'[mesh]\nruntime_dir = "{short_dir}/run"\n'
        other.write_text(head + plugin_table("b", *MINIMAL_COMMAND))
        await stub.Reload(control.ReloadRequest(path=str(other)))
        (life,) = await get_lives(stub, "a")
        assert (life.outcome, life.next_state) == ("stopped", "stopped")
        assert [each.plugin for each in await get_lives(stub)] == ["a", "b"]


async def test_the_config_in_force(short_dir: Path) -> None:
    """Scale, the log level and a reload are in it, and what is written is a config."""
    table = plugin_table("a", *MINIMAL_COMMAND, env={"TOKEN": "hunter2"})
    async with controlled(table, short_dir) as (watched, stub):
        await watched.wait_for_event(events.Ready)
        await stub.Scale(control.ScaleRequest(name="a", instances=2))
        await stub.SetLogLevel(control.SetLogLevelRequest(name="a", level="error"))
        reply = await stub.GetConfig(control.GetConfigRequest())
        assert reply.masked == 1
        assert 'TOKEN = "***"' in reply.toml
        assert "hunter2" not in reply.toml
        assert "instances = 2\n" in reply.toml
        assert 'log_level = "error"' in reply.toml
        assert reply.source == str(short_dir / "mesh.toml")
        both = short_dir / "both.toml"
        both.write_text(reply.toml + plugin_table("b", *MINIMAL_COMMAND))
        changes = await stub.Reload(control.ReloadRequest(path=str(both)))
        # Only the masked variable differs.
        assert ([*changes.added], [*changes.restarted], [*changes.scaled]) == (["b"], ["a"], [])


def test_an_upgrade_keeps_the_history(short_dir: Path) -> None:
    table = plugin_table("a", *MINIMAL_COMMAND, backoff=SOON) + TASK
    with serve_mesh(short_dir, table, min_ready=1) as mesh:
        mesh.wait_for_log("after 2 attempts")

        def read() -> list[dict[str, Any]]:
            lives: list[dict[str, Any]] = run_json_command(mesh, "history")["lives"]
            return lives

        def wait_for(condition: Callable[[dict[str, Any]], bool], count: int) -> None:
            wait_until(lambda: len(read()) == count and condition(read()[-1]))

        os.kill(mesh.ps()[0]["pid"], signal.SIGKILL)
        wait_for(lambda life: bool(life["moments"]), 4)
        before = run_json_command(mesh, "history")
        for _ in range(2):
            upgrade(mesh)
        after = run_json_command(mesh, "history")
        assert after["oldest"] == before["oldest"]
        assert after["lives"][:-1] == before["lives"][:-1]
        old, new = before["lives"][-1], after["lives"][-1]
        assert [each["kind"] for each in new["moments"]] == ["ready", "adopted", "adopted"]
        assert {**new, "moments": old["moments"]} == old
        os.kill(mesh.ps()[0]["pid"], signal.SIGKILL)
        wait_for(lambda life: bool(life["moments"]), 5)
        killed, last = read()[-2:]
        assert (killed["id"], killed["outcome"], killed["signal"]) == (old["id"], "failed", 9)
        assert (last["id"], last["follows"]) == (old["id"] + 1, "restart")
