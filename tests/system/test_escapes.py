"""Descendants of plugins that have left all that they were known by end with their plugin."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests import ROOT
from tests.support.mesh_processes import plugin_table, serve_mesh, wait_until
from tests.support.process_tracking import (
    has_ended,
    hold_pidfds,
    pid_from_log,
    require_namespaces,
    wait_until_ended,
)

WAYS = [["environment"], ["limits"], ["environment", "limits"], ["namespace", "environment"]]


def escaping(*how: str, **settings: object) -> str:
    return plugin_table(
        "e", "-I", "-S", "escaped_descendant.py", *how, ready_timeout=3600, **settings
    )


def skip_without_namespaces(how: list[str]) -> None:
    if "namespace" in how:
        require_namespaces()


@pytest.mark.parametrize("how", WAYS, ids="-".join)
def test_it_ends_when_its_plugin_does(how: list[str], short_dir: Path) -> None:
    skip_without_namespaces(how)
    config = escaping(*how, "dies", restart="never")
    with serve_mesh(
        short_dir, config + plugin_table("other", "-I", "-S", "minimal.py"), min_ready=1
    ) as mesh:
        mesh.wait_for_log("escaped")
        # It is found by what it has kept at once, or else when no plugin is left that may be its.
        if how == ["environment", "limits"]:
            assert mesh.run_command("stop", "other").returncode == 0
        with hold_pidfds(
            [pid] if Path(f"/proc/{(pid := pid_from_log(mesh))}").exists() else []
        ) as pidfds:
            wait_until_ended(pidfds)
        assert mesh.stop() == 0


def test_what_a_run_leaves_is_not_taken_for_the_next_runs(short_dir: Path) -> None:
    """It ends with its own run, although the plugin was started again by then."""
    config = escaping("environment", "limits", "lasts-the-second-time")
    with serve_mesh(short_dir, config) as mesh:
        wait_until(lambda: mesh.log.count("for good") == 2)
        first, second = (int(pid) for pid in re.findall(r"escaped (\d+) for good", mesh.log))
        wait_until(lambda: not Path(f"/proc/{first}").exists())
        with hold_pidfds([second]) as pidfds:
            assert not any(map(has_ended, pidfds.values()))
            assert mesh.stop() == 0
            wait_until_ended(pidfds)


@pytest.mark.parametrize("how", WAYS, ids="-".join)
def test_it_ends_when_the_mesh_stops(how: list[str], short_dir: Path) -> None:
    skip_without_namespaces(how)
    with serve_mesh(short_dir, escaping(*how)) as mesh, hold_pidfds([pid_from_log(mesh)]) as pidfds:
        assert not any(map(has_ended, pidfds.values()))
        assert mesh.stop() == 0
        wait_until_ended(pidfds)
        # When a mesh says that it has stopped, nothing is left.
        assert not any(Path(f"/proc/{pid}").exists() for pid in pidfds)


@pytest.mark.parametrize("how", WAYS, ids="-".join)
def test_it_ends_when_the_mesh_is_killed(how: list[str], short_dir: Path) -> None:
    skip_without_namespaces(how)
    with (
        serve_mesh(short_dir, escaping(*how)) as mesh,
        hold_pidfds([pid := pid_from_log(mesh)]) as pidfds,
    ):
        if how not in (["environment"], ["limits"]):
            # It is known by its parent alone, which the mesh tells its warden.
            wait_until(lambda: f"watching reparented pid {pid}" in mesh.log)
        mesh.process.kill()
        wait_until_ended(pidfds)


def test_a_descendant_that_is_not_dumpable_is_found_by_its_own_user() -> None:
    """Its environment cannot be read then, but by root."""
    if os.geteuid() != 0:
        pytest.skip("only root can become somebody else")
    program = """
import ctypes, os, subprocess, sys
from meshtrio.supervisor.process.cleanup import process_marker
from meshtrio.supervisor.process.cleanup import process_marker

os.setgroups([])
os.setresgid(*[12345] * 3)
os.setresuid(*[12345] * 3)
reading, writing = os.pipe()
child = os.fork()
if child == 0:
    process_marker.set_marker_limit(0, process_marker.encode_marker_limit("ab" * 16, 7))
    assert ctypes.CDLL(None).prctl(4, 0, 0, 0, 0) == 0  # PR_SET_DUMPABLE
    os.write(writing, b"x")
    while True:
        __import__("time").sleep(3600)
os.read(reading, 1)
try:
    open(f"/proc/{child}/environ", "rb").read()
except PermissionError:
    pass
else:
    raise AssertionError("it can be read")
swept = process_marker.kill_marked_processes(process_marker.make_mesh_marker("ab" * 16, [12345]))
assert (swept.killed, swept.unkillable) == ({child}, {}), (swept.killed, swept.unkillable)
assert os.waitpid(child, 0)[1] == 9
"""
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, timeout=60, check=False, capture_output=True
    )
    assert done.returncode == 0, done.stderr.decode()


def test_a_child_that_the_program_had_before_is_none_of_the_meshs(short_dir: Path) -> None:
    """As of a container's entry point, a shell that starts a helper and executes `serve`."""
    (short_dir / "mesh.toml").write_text(plugin_table("p", "-I", "-S", "minimal.py"))
    serve = [sys.executable, "-m", "meshtrio", "serve", str(short_dir / "mesh.toml")]
    script = 'sleep 3600 >&- 2>&- & echo "$!"; exec "$@"'
    command = ["sh", "-c", script, "sh", *serve, "--runtime-dir", str(short_dir / "run")]
    log = short_dir / "log"
    with (
        log.open("wb") as out,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=out, cwd=ROOT) as process,
    ):
        assert process.stdout is not None
        with hold_pidfds([int(process.stdout.readline())]) as pidfds:
            wait_until(lambda: "ready after" in log.read_text())
            process.send_signal(signal.SIGTERM)
            assert process.wait(60) == 0
            assert not any(map(has_ended, pidfds.values()))
