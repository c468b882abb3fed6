"""`meshtrio health`, and how it decides."""

from __future__ import annotations

import json
import os
import signal
import socket
import time
from pathlib import Path

import pytest

from meshtrio.cli.health import describe, summarize
from meshtrio.messages import control
from tests.support.cli_commands import group_table, run_command_ok, run_failing_command
from tests.support.mesh_processes import (
    plugin_table,
    run_meshtrio,
    serve_mesh,
    wait_until,
)

STEADY = plugin_table("steady", "-I", "-S", "minimal.py", instances=2)
UNREADY = plugin_table("unready", "startup_faults.py", "never-bind", ready_timeout=600)
FAILED_TASK = '[[task]]\nname = "broken"\ncommand = ["false"]\n'
DONE = plugin_table("done", "-c", "pass", restart="never", ready_timeout=600)


@pytest.mark.parametrize(
    ("states", "with_stopped", "reason"),
    [
        ([], True, ""),
        (["ready"], True, ""),
        (["ready", "backoff"], True, ""),
        (["attached"], True, ""),
        (["idle"], False, ""),
        (["idle", "failed"], True, ""),
        (["starting"], False, "p is not ready (starting)"),
        (["backoff", "backoff"], False, "p is not ready (backoff)"),
        (["failed", "stopped"], False, "p is not ready (failed, stopped)"),
        (["stopped", "exited"], False, ""),
        (["stopped"], True, "p is not ready (stopped)"),
        (["unready"], False, "p is not ready (unready)"),
    ],
)
def test_a_plugin_is_ready_if_one_of_its_instances_is(
    states: list[str], with_stopped: bool, reason: str
) -> None:
    instances = [control.Instance(name="p", state=state) for state in states]
    assert describe(summarize(instances, with_stopped=with_stopped)) == reason


def test_all_that_is_to_run(short_dir: Path) -> None:
    config = STEADY + DONE + UNREADY + FAILED_TASK + group_table("pair", "steady", "done")
    with serve_mesh(short_dir, config, min_ready=2) as mesh:
        mesh.wait_for_log("done/0: ")
        mesh.wait_for_log("broken/0: failed")
        assert run_failing_command(mesh, "health") == "meshtrio: unready is not ready (starting)\n"
        assert run_command_ok(mesh, "health", "steady", "plugin.steady") == "healthy: steady\n"
        assert "done is not ready (exited" in run_failing_command(mesh, "health", "pair")
        assert "there is no plugin 'absent'" in run_failing_command(mesh, "health", "absent")
        assert "broken is a task" in run_failing_command(mesh, "health", "broken")
        found = mesh.run_command("health", "--json")
        assert (found.returncode, found.stderr) == (1, "")
        report = json.loads(found.stdout)
        assert report["healthy"] is False
        assert report["reason"] == "unready is not ready (starting)"
        assert [plugin["name"] for plugin in report["plugins"]] == ["steady", "unready"]
        run_command_ok(mesh, "stop", "unready")
        assert run_command_ok(mesh, "health") == "healthy: steady\n"
        assert json.loads(run_command_ok(mesh, "health", "--json"))["healthy"] is True


def test_one_that_is_started_on_demand_is_healthy_while_it_starts(short_dir: Path) -> None:
    """Calls wait for it; those of a container's check would otherwise find it unhealthy then."""
    settings = {"ready_timeout": 600, "start": "on-demand", "listen_fds": True}
    table = plugin_table("slow", "startup_faults.py", "never-bind", **settings)
    with serve_mesh(short_dir, table) as mesh, socket.socket(socket.AF_UNIX) as client:
        held = mesh.runtime_dir / "slow-0.held.sock"
        wait_until(held.exists)
        assert run_command_ok(mesh, "health") == "healthy: slow\n"
        client.connect(str(held))
        mesh.wait_for_log("started as pid")
        assert [row["state"] for row in mesh.ps()] == ["starting"]
        assert run_command_ok(mesh, "health") == "healthy: slow\n"
        run_command_ok(mesh, "stop", "slow")
        assert "slow is not ready (stopped" in run_failing_command(mesh, "health", "slow")


def test_a_mesh_that_hangs_is_found_within_the_timeout(short_dir: Path) -> None:
    with serve_mesh(short_dir, STEADY, min_ready=2) as mesh:
        os.kill(mesh.process.pid, signal.SIGSTOP)
        try:
            before = time.monotonic()
            line = run_failing_command(mesh, "health", "--timeout", "0.5")
            assert line == f"meshtrio: the mesh at {mesh.socket} did not answer within 0.5 s\n"
            assert time.monotonic() - before < 30
        finally:
            os.kill(mesh.process.pid, signal.SIGCONT)


def test_a_mesh_that_stops_is_not_healthy(short_dir: Path) -> None:
    slow = plugin_table("slow", "startup_faults.py", "ignore-sigterm", stop_timeout=60)
    with serve_mesh(short_dir, slow) as mesh:
        mesh.wait_for_log("ignoring")
        mesh.process.send_signal(signal.SIGTERM)
        mesh.wait_for_log("SIGTERM: stopping")
        assert run_failing_command(mesh, "health") == "meshtrio: the mesh is stopping\n"


def test_without_a_mesh(short_dir: Path) -> None:
    path = short_dir / "mesh.sock"
    done = run_meshtrio("health", "--mesh-socket", str(path))
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)
    assert str(path) in done.stderr
    with socket.socket(socket.AF_UNIX) as hung:
        hung.bind(str(path))
        hung.listen()
        done = run_meshtrio("health", "--mesh-socket", str(path), "--timeout", "0.3", "--json")
    assert done.returncode == 1
    assert "did not answer within 0.3 s" in json.loads(done.stdout)["reason"]
