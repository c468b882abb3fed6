"""Plugins and wardens that end while a debugger or strace(1) holds them."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from meshtrio.supervisor.process.proc import procfs
from tests.support.mesh_processes import child_pids, plugin_table, serve_mesh, wait_until
from tests.support.ptrace import trace_tasks

MINIMAL = ("-I", "-S", "minimal.py")
CONFIG = plugin_table("a", *MINIMAL, ready_timeout=60, backoff={"initial": 0.01}) + plugin_table(
    "b", *MINIMAL, ready_timeout=60
)


def test_a_plugin_that_dies_while_it_is_traced_is_restarted(short_dir: Path) -> None:
    with serve_mesh(short_dir, CONFIG, min_ready=2) as mesh:
        before = {row["name"]: row["pid"] for row in mesh.ps()}
        with trace_tasks(before["a"]) as tracer:
            os.kill(before["a"], signal.SIGKILL)
            mesh.wait_for_log(f"pid {before['a']} has ended, but pid {tracer.pid} (python")
            wait_until(lambda: mesh.log.count("ready after") == 3)
            after = {row["name"]: row["pid"] for row in mesh.ps()}
            assert after["a"] != before["a"]
            assert after["b"] == before["b"]
            assert f"pid {before['a']} was killed by SIGKILL" in mesh.log
            # It is a zombie for as long as the tracer keeps it.
            assert procfs.read_stat(before["a"]) is not None
        wait_until(lambda: procfs.read_stat(before["a"]) is None)
        assert mesh.stop() == 0


def test_the_tracer_of_a_plugin_that_does_not_answer_is_named(short_dir: Path) -> None:
    liveness = {"interval": 0.2, "timeout": 0.2, "failure_threshold": 2}
    config = plugin_table(
        "a", *MINIMAL, ready_timeout=60, backoff={"initial": 0.01}, liveness=liveness
    )
    with serve_mesh(short_dir, config, min_ready=1) as mesh:
        (row,) = mesh.ps()
        with trace_tasks(row["pid"]) as tracer:
            # A process that is traced stops at each signal, until its tracer has it go on.
            os.kill(row["pid"], signal.SIGUSR2)
            mesh.wait_for_log(f"while pid {tracer.pid} (python")
            wait_until(lambda: mesh.log.count("ready after") == 2)
        assert mesh.stop() == 0


def test_a_mesh_stops_though_its_plugins_are_traced(short_dir: Path) -> None:
    with serve_mesh(short_dir, CONFIG.replace("60", "60\nstop_timeout = 0.2"), min_ready=2) as mesh:
        with trace_tasks(*[row["pid"] for row in mesh.ps()]):
            assert mesh.stop() == 0
            assert "2 were killed" in mesh.log
            assert "traces it" in mesh.log


def test_a_warden_that_dies_while_it_is_traced_is_replaced(short_dir: Path) -> None:
    with serve_mesh(short_dir, CONFIG, min_ready=2) as mesh:
        plugins = [row["pid"] for row in mesh.ps()]
        (warden,) = [pid for pid in child_pids(mesh.process.pid) if pid not in plugins]
        with trace_tasks(warden):
            os.kill(warden, signal.SIGKILL)
            mesh.wait_for_log("restarting it")
            assert len(mesh.ps()) == 2
            wait_until(lambda: len(set(child_pids(mesh.process.pid)) - {*plugins, warden}) == 1)
        wait_until(lambda: procfs.read_stat(warden) is None)
        mesh.process.kill()
        mesh.process.wait()
        wait_until(lambda: not mesh.plugin_pids())
