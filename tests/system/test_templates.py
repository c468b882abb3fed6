"""Templates: who shares one, when there is one, and that nothing of them is left."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from random import Random
from typing import Any

import attrs
import pytest
import trio

from meshtrio.config import MeshConfig, PluginConfig, StartMethod
from meshtrio.supervisor import events
from tests import ROOT
from tests.support.in_process_mesh import RecordedMesh, run_mesh
from tests.support.mesh_processes import (
    child_pids,
    echo_plugin_table,
    plugin_table,
    serve_mesh,
)
from tests.support.process_tracking import (
    hold_pidfds,
    kill_with_warden,
    template_pids,
    wait_until_ended,
)
from tests.warm_starts.kills import VICTIMS, measure_kill

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


async def test_a_changed_script_is_run_by_the_same_template(short_dir: Path) -> None:
    plugin = make_plugin(short_dir, "p")
    async with run_mesh(MeshConfig([plugin]), short_dir) as watched:
        await watched.wait_for_event(events.LineWritten, line="began program.py")
        before = own_template_pids()
        (short_dir / "program.py").write_text(PROGRAM.replace("began", "began again"))
        await kill_and_await_successor(watched, "p")
        await watched.wait_for_event(events.LineWritten, line="began again program.py")
        assert own_template_pids() == before


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


async def test_random_numbers_and_gates_differ_between_children(short_dir: Path) -> None:
    plugin = make_plugin(short_dir, "p", instances=5)
    program = "import random, time; print(random.random(), flush=True); time.sleep(3600)"
    (short_dir / "program.py").write_text(program)
    async with run_mesh(MeshConfig([plugin]), short_dir) as watched:
        await watched.wait_for_event(events.LineWritten, count=5)
        lines = {str(each.event) for each in watched.find_events(events.LineWritten)}
        assert len(lines) == 5


@pytest.mark.parametrize("victims", VICTIMS, ids=" and ".join)
def test_nothing_is_left_when_they_are_killed_at_any_instant(
    short_dir: Path, victims: tuple[str, ...]
) -> None:
    random = Random(str(victims))
    for number in range(2):
        folder = short_dir / str(number)
        folder.mkdir()
        measure_kill(folder, victims, random)


def test_a_template_whose_imports_hang_does_not_outlive_the_mesh(short_dir: Path) -> None:
    module = "import time; print('hangs', flush=True); time.sleep(600)"
    (short_dir / "hanging.py").write_text(module)
    (short_dir / "program.py").write_text(PROGRAM)
    config = plugin_table(
        "p", "program.py", cwd=short_dir, start="fork", preload=["hanging"], ready_timeout=600.0
    )
    with serve_mesh(short_dir, config) as mesh:
        mesh.wait_for_log("hangs")
        with hold_pidfds(template_pids(mesh.process.pid)) as templates:
            kill_with_warden(mesh)
            wait_until_ended(templates)


@pytest.mark.long
def test_a_thousand_restarts_leave_nothing_in_it_nor_in_the_mesh() -> None:
    # In a process of its own: pytest keeps what a mesh in this one logs.
    command = [sys.executable, "-m", "tests.warm_starts", "restarts", "--count", "1000"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]


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
