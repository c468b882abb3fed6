"""Servers with all the connections they may have: the mesh and operators still get in."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import trio

from meshtrio.supervisor import events
from tests.support.in_process_mesh import RecordedMesh, run_mesh
from tests.support.mesh_processes import (
    MeshProcess,
    echo_plugin_table,
    plugin_table,
    serve_mesh,
    wait_until,
)

NOFILE = resource.RLIMIT_NOFILE
QUICK = {"interval": 0.1, "timeout": 20.0, "failure_threshold": 1}
CHECKS = 5
OPENS = """
import resource, select, socket, sys
_, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
PREFACE = b"PRI * HTTP/2.0\\r\\n\\r\\nSM\\r\\n\\r\\n"
SETTINGS = bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])
kept = []
for _ in range(int(sys.argv[2])):
    sock = socket.socket(socket.AF_UNIX)
    sock.connect(sys.argv[1])
    try:
        sock.sendall(PREFACE + SETTINGS)
    except (BrokenPipeError, ConnectionResetError):
        pass  # Rejected before it could send anything; the answer is there to be read.
    kept.append(sock)
rejected = 0
for sock in kept:
    heard = b""
    # An acknowledged SETTINGS is the last that a server sends to a client that asks for nothing.
    while not heard.endswith(bytes([0, 0, 0, 4, 1, 0, 0, 0, 0])):
        try:
            data = sock.recv(65536)
        except ConnectionResetError:
            data = b""
        heard += data
        if not data:
            rejected += 1
            break
print(rejected, flush=True)
sys.stdin.readline()
"""


@contextmanager
def connections(path: Path, count: int) -> Iterator[int]:
    """Have another process hold connections to a socket; gives how many others were rejected."""
    pipe = subprocess.PIPE
    command = [sys.executable, "-c", OPENS, str(path), str(count)]
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        yield int(process.stdout.readline())
        process.stdin.close()


async def checks_made(watched: RecordedMesh, count: int) -> None:
    """Wait for health checks that begin from now on."""
    (child,) = watched.mesh._supervisor.instances
    seen = -1
    before = None
    with trio.fail_after(120):
        while seen < count:
            assert child.active_run is not None
            if child.active_run.last_check is not before:
                before = child.active_run.last_check
                seen += 1
            await trio.sleep(0.01)


async def checked_at_its_limit(watched: RecordedMesh) -> None:
    """Fill a plugin with connections; health checks answered in the meantime must not fail."""
    await watched.wait_for_event(events.Ready)
    held = connections(watched.mesh.socket.parent / "echo-0.sock", 600)
    rejected = await trio.to_thread.run_sync(held.__enter__)
    try:
        assert rejected > 0
        await checks_made(watched, CHECKS)
    finally:
        await trio.to_thread.run_sync(held.__exit__, None, None, None)
    assert watched.find_events(events.CheckFailed) == []


async def test_a_plugin_without_room_for_clients_answers_its_mesh(short_dir: Path) -> None:
    few = {"rlimits": {"nofile": 1024}}
    config = echo_plugin_table(containment=few, liveness=QUICK)
    async with run_mesh(config, short_dir) as watched:
        await checked_at_its_limit(watched)
        assert watched.find_events(events.Exited) == []


async def test_a_wrapped_plugin_knows_its_mesh_as_well(short_dir: Path) -> None:
    """Its parent is a shell, and not the mesh."""
    few = {"rlimits": {"nofile": 1024}}
    script = Path(__file__).parents[2] / "examples" / "echo-plugin" / "echo_plugin.py"
    inner = f"'{sys.executable}' '{script}' & wait"
    run = f"import os; os.execv('/bin/sh', ['sh', '-c', {inner!r}])"
    config = plugin_table("echo", "-c", run, cwd=script.parent, containment=few, liveness=QUICK)
    async with run_mesh(config, short_dir) as watched:
        await checked_at_its_limit(watched)


def _operate(mesh: MeshProcess) -> None:
    assert [row["state"] for row in mesh.ps()] == ["ready"]
    stopped = mesh.run_command("stop", "echo")
    assert stopped.returncode == 0, stopped.stderr
    assert [row["state"] for row in mesh.ps()] == ["stopped"]


def test_operators_are_accepted_by_a_mesh_that_is_full(short_dir: Path) -> None:
    config = echo_plugin_table() + "[mesh.gateway]\nmax_connections = 20\n"
    with (
        serve_mesh(short_dir, config, min_ready=1) as mesh,
        connections(mesh.socket, 40) as rejected,
    ):
        assert rejected >= 40 - 20 - 16
        _operate(mesh)
        assert mesh.stop() == 0


def test_operators_are_accepted_by_a_mesh_without_descriptors(short_dir: Path) -> None:
    with serve_mesh(short_dir, echo_plugin_table(), min_ready=1) as mesh:
        pid = mesh.process.pid
        _, hard = resource.prlimit(pid, NOFILE)
        highest = max(int(name) for name in os.listdir(f"/proc/{pid}/fd"))
        resource.prlimit(pid, NOFILE, (highest + 10, hard))
        with connections(mesh.socket, highest + 50) as rejected:
            assert rejected > 0
            assert "Too many open files: rejecting connections" in mesh.log
            used = len(os.listdir(f"/proc/{pid}/fd"))
            assert used >= highest + 9  # all but what an operator may use
            _operate(mesh)
        wait_until(lambda: len(os.listdir(f"/proc/{pid}/fd")) < highest + 9)
        assert mesh.stop() == 0
