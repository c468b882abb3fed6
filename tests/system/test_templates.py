"""Templates: who shares one, when there is one, and that nothing of them is left."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from random import Random
from typing import Any

import attrs
import pytest
import trio

from meshtrio.config import MeshConfig, PluginConfig, StartMethod
from meshtrio.supervisor import events
from tests.support.in_process_mesh import RecordedMesh, run_mesh
from tests.support.mesh_processes import (
    child_pids,
    echo_plugin_table,
    pids_with_environment,
    serve_mesh,
    wait_until,
)
from tests.support.process_tracking import hold_pidfds, template_pids, wait_until_ended, warden_pids

PROGRAM = "import time, sys; print('began', *sys.argv, flush=True); time.sleep(3600)"


def own_template_pids() -> list[int]:
    return template_pids(os.getpid())


def make_plugin(folder: Path, name: str, **settings: Any) -> PluginConfig:
    (folder / "program.py").write_text(PROGRAM)
    values = {"start": StartMethod.FORK, "cwd": folder, "ready_timeout": 60.0, **settings}
    return PluginConfig(name, ["{python}", "program.py"], **values)


async def kill_and_await_successor(watched: RecordedMesh, plugin: str) -> None:
    count = len(watched.find_events(events.LineWritten, plugin=plugin))
    (status,) = [each for each in watched.mesh.instances() if each.name == plugin]
    assert status.pid is not None
    os.kill(status.pid, signal.SIGKILL)
    await watched.wait_for_event(events.LineWritten, plugin=plugin, count=count + 1)


async def test_plugins_share_a_template_if_they_can(short_dir: Path) -> None:
    plugins = [
        make_plugin(short_dir, "one"),
        make_plugin(short_dir, "two", stop_timeout=3.0),
        make_plugin(short_dir, "other", env={"A": "b"}),
        make_plugin(short_dir, "executed", start=StartMethod.EXEC),
    ]
    async with run_mesh(MeshConfig(plugins), short_dir) as watched:
        await watched.wait_for_event(events.LineWritten, count=4)
        first = own_template_pids()
        assert len(first) == 2
        # Those that nobody needs any more are ended, and others are not.
        await watched.mesh.reload(attrs.evolve(watched.mesh.config, plugins=plugins[1:4:2]))
        await wait_for(lambda: len(own_template_pids()) == 1)
        await kill_and_await_successor(watched, "two")
        assert set(own_template_pids()) < set(first)
        await watched.mesh.reload(attrs.evolve(watched.mesh.config, plugins=plugins[3:]))
        await wait_for(lambda: not own_template_pids())


async def wait_for(condition: Any) -> None:
    with trio.fail_after(60):
        while not condition():  # noqa: ASYNC110
            await trio.sleep(0.005)


async def test_it_is_renewed_when_the_code_of_a_module_has_changed(short_dir: Path) -> None:
    (short_dir / "shared.py").write_text("VERSION = 1\n")
    (short_dir / "program.py").write_text("")
    plugin = make_plugin(short_dir, "p", preload=["shared"])
    program = "import shared, time; print(shared.VERSION, flush=True); time.sleep(3600)"
    (short_dir / "program.py").write_text(program)
    async with run_mesh(MeshConfig([plugin]), short_dir) as watched:
        await watched.wait_for_event(events.LineWritten, line="1")
        before = own_template_pids()
        (short_dir / "shared.py").write_text("VERSION = 2, 'longer'\n")
        await kill_and_await_successor(watched, "p")
        await watched.wait_for_event(events.LineWritten, line="(2, 'longer')")
        await wait_for(lambda: len(own_template_pids()) == 1)
        assert own_template_pids() != before


def test_signals_to_all_processes_stop_the_mesh_in_order(short_dir: Path) -> None:
    config = echo_plugin_table(start="fork", instances=2)
    with serve_mesh(short_dir, config, min_ready=2) as mesh:
        for pid in template_pids(mesh.process.pid):
            os.kill(pid, signal.SIGTERM)
        assert mesh.stop() == 0
        assert "2 processes stopped in time, 0 were killed" in mesh.log
        assert "unexpected" not in mesh.log


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP], ids=["killed", "stopped"])
async def test_plugins_survive_its_end_and_get_another_one(
    short_dir: Path, number: signal.Signals
) -> None:
    async with run_mesh(MeshConfig([make_plugin(short_dir, "p")]), short_dir) as watched:
        await watched.wait_for_event(events.LineWritten)
        (template,) = own_template_pids()
        os.kill(template, number)
        if number == signal.SIGKILL:
            await wait_for(lambda: not own_template_pids())
        assert not watched.find_events(events.Exited)
        await kill_and_await_successor(watched, "p")
        await kill_and_await_successor(watched, "p")
        (other,) = own_template_pids()
        assert other != template
        assert watched.mesh.instances()[0].pid in child_pids(os.getpid())


async def test_restarts_leave_nothing_in_it_nor_in_the_mesh(short_dir: Path) -> None:
    plugin = attrs.evolve(
        make_plugin(short_dir, "p"),
        backoff=attrs.evolve(PluginConfig("x", ["x"]).backoff, initial=0.001, maximum=0.001),
    )
    async with run_mesh(MeshConfig([plugin]), short_dir) as watched:
        await watched.wait_for_event(events.LineWritten)
        (template,) = own_template_pids()
        await kill_and_await_successor(watched, "p")
        before = [count_descriptors(os.getpid()), count_descriptors(template)]
        for _ in range(20):
            await kill_and_await_successor(watched, "p")
        assert own_template_pids() == [template]
        await wait_for(
            lambda: [count_descriptors(os.getpid()), count_descriptors(template)] == before
        )
        assert not child_pids(template)


def count_descriptors(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


async def test_random_numbers_and_gates_differ_between_children(short_dir: Path) -> None:
    plugin = make_plugin(short_dir, "p", instances=5)
    program = "import random, time; print(random.random(), flush=True); time.sleep(3600)"
    (short_dir / "program.py").write_text(program)
    async with run_mesh(MeshConfig([plugin]), short_dir) as watched:
        await watched.wait_for_event(events.LineWritten, count=5)
        lines = {str(each.event) for each in watched.find_events(events.LineWritten)}
        assert len(lines) == 5


@pytest.mark.parametrize("victims", ["mesh", "mesh, warden", "all", "mesh, template"])
def test_nothing_is_left_when_it_is_killed_at_any_instant(short_dir: Path, victims: str) -> None:
    """The instants are spread from the start of the mesh until all of its plugins run."""
    random, mark = Random(victims), f"TEST_OF_KILLS={short_dir}"
    name, _, value = mark.partition("=")
    settings = {"start": "fork", "instances": 3, "env": {name: value}, "backoff": {"initial": 0.01}}
    config = echo_plugin_table(**settings)
    for number in range(4):
        folder = short_dir / str(number)
        folder.mkdir()
        with serve_mesh(folder, config) as mesh:
            time.sleep(random.uniform(0.0, 1.0))  # any instant will do
            pids = {"mesh": [mesh.process.pid], "warden": warden_pids(mesh.process.pid)}
            pids["template"] = template_pids(mesh.process.pid)
            pids["all"] = [pid for found in pids.values() for pid in found]
            chosen = [pid for each in victims.split(", ") for pid in pids[each]]
            with hold_pidfds(chosen) as held:
                for signal_number in (signal.SIGSTOP, signal.SIGKILL):
                    for pidfd in held.values():
                        signal.pidfd_send_signal(pidfd, signal_number)
                mesh.process.wait()
                wait_until_ended(held)
            wait_until(lambda: not pids_with_environment(mark), timeout=10)


def test_ps_and_tree_say_how_it_was_started(short_dir: Path) -> None:
    config = echo_plugin_table(start="fork", instances=2, preload=["echo.v1.echo_grpc"])
    config += echo_plugin_table("executed", start="exec")
    with serve_mesh(short_dir, config, min_ready=3) as mesh:
        *forked, executed = mesh.ps()
        assert (executed["start"], [each["start"] for each in forked]) == ("exec", ["fork"] * 2)
        for each in forked:
            assert each["ready_after"] > 0
            assert each["proportional"] < 0.75 * each["resident"]
        assert executed["proportional"] < executed["resident"]
        assert "by fork in " in mesh.run_command("tree").stdout
