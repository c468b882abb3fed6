"""A plugin that cannot be helped, up to the exit status of the mesh."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
import trio

from meshtrio import mesh
from meshtrio.config import load
from meshtrio.errors import MeshFailedError
from meshtrio.supervisor import events
from tests.support.in_process_mesh import run_mesh
from tests.support.mesh_processes import echo_plugin_table, plugin_table, serve_mesh

HOPELESS = plugin_table(
    "bad",
    "startup_faults.py",
    "exit-at-once",
    backoff={"initial": 0.01},
    max_restarts=2,
    escalate="mesh",
)


def test_serve_fails_with_status_1_and_says_why(short_dir: Path) -> None:
    with serve_mesh(short_dir, echo_plugin_table() + HOPELESS) as running:
        assert running.process.wait(20) == 1
        error, tail = running.log.splitlines()[-2:]
        assert "meshtrio: plugin bad/0 exited with status 3, after 2 restarts within 60 s" in error
        assert tail == "  about to give up"
        assert not running.plugin_pids()
        assert not list(running.runtime_dir.glob("*.sock"))


async def test_main_raises_what_happened(short_dir: Path) -> None:
    (short_dir / "mesh.toml").write_text(HOPELESS + f"[mesh]\nruntime_dir = '{short_dir}/run'\n")
    with pytest.raises(MeshFailedError) as caught, trio.fail_after(20):
        await mesh.main(load(short_dir / "mesh.toml"))
    error = caught.value
    assert (error.plugin, error.restarts, error.groups) == ("bad", 2, ())
    assert error.exit_reason == "exited with status 3"
    assert error.stderr_tail == ("about to give up",)


async def test_a_group_restarts_around_a_plugin_that_was_killed(short_dir: Path) -> None:
    group = '[[group]]\nname = "g"\nmembers = ["a", "b"]\nstrategy = "one-for-all"\n'
    config = (
        echo_plugin_table("a", backoff={"initial": 0.01})
        + echo_plugin_table("b", depends_on=["a"])
        + echo_plugin_table("c")
        + group
    )
    async with run_mesh(config, short_dir) as watched:
        for name in "abc":
            await watched.wait_for_event(events.Ready, plugin=name)
        pids = {status.name: status.pid for status in watched.mesh.instances()}
        with trio.fail_after(20):
            os.kill(pids["a"], signal.SIGKILL)
            await watched.wait_for_event(events.Ready, plugin="b", count=2)
        after = {status.name: status.pid for status in watched.mesh.instances()}
        assert pids["a"] != after["a"]
        assert pids["b"] != after["b"]
        assert pids["c"] == after["c"]
