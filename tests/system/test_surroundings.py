"""What the mesh stands on fails: descriptors, its runtime dir, the disk of its log, its clock."""

from __future__ import annotations

import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import trio
from echo.v1.echo_grpc import EchoServiceStub
from echo.v1.echo_pb2 import EchoRequest

from meshtrio import mesh
from meshtrio.supervisor import events
from meshtrio.supervisor.policy.state import InstanceState
from tests.support.in_process_mesh import run_mesh
from tests.support.mesh_processes import (
    MeshProcess,
    echo_plugin_table,
    plugin_table,
    serve_mesh,
    wait_for_server,
    wait_until,
)

QUICK = {"interval": 0.1, "timeout": 0.3, "failure_threshold": 2}
MINIMAL = ["-I", "-S", "minimal.py"]
AT_ONCE = {"initial": 0.05, "maximum": 0.2}


def restarts(found: MeshProcess) -> dict[str, int]:
    return {row["name"]: row["restarts"] for row in found.ps()}


def test_no_descriptors_left_costs_no_plugin_its_life(short_dir: Path) -> None:
    config = plugin_table("steady", *MINIMAL, liveness=QUICK, backoff=AT_ONCE)
    config += plugin_table("killed", *MINIMAL, liveness=QUICK, backoff=AT_ONCE)
    with serve_mesh(short_dir, config, min_ready=2) as found:
        pids = {row["name"]: row["pid"] for row in found.ps()}
        mesh_pid = found.process.pid
        _, hard = resource.prlimit(mesh_pid, resource.RLIMIT_NOFILE)
        # Numbers below three stay taken, so that none comes free whatever is closed meanwhile.
        resource.prlimit(mesh_pid, resource.RLIMIT_NOFILE, (3, hard))
        os.kill(pids["killed"], signal.SIGKILL)
        found.wait_for_log("could not be started: Too many open files")
        # Health checks are due ten times a second, and none can be asked.
        time.sleep(1.0)
        resource.prlimit(mesh_pid, resource.RLIMIT_NOFILE, (hard, hard))
        wait_until(lambda: found.log.count("ready after") == 3)
        after = {row["name"]: row for row in found.ps()}
        assert after["steady"]["pid"] == pids["steady"]
        assert after["steady"]["restarts"] == 0
        assert found.stop() == 0


async def test_a_removed_runtime_dir_is_made_again_and_no_call_is_lost(short_dir: Path) -> None:
    config = echo_plugin_table(stop_timeout=2.0)
    async with run_mesh(config, short_dir) as watched, watched.mesh.connect("plugin.echo") as c:
        stub = c.stub(EchoServiceStub)
        first = await stub.Echo(EchoRequest(message="before"))
        shutil.rmtree(short_dir / "run")
        with trio.fail_after(20):
            while (await stub.Echo(EchoRequest(message="on"))).pid == first.pid:  # noqa: ASYNC110
                await trio.sleep(0.005)
            (renewing,) = watched.find_events(events.Renewing)
            assert "was removed" in str(renewing.event)
            assert not watched.find_events(events.Exited)
            async with mesh.connect("plugin.echo", mesh_socket=watched.mesh.socket) as other:
                await other.stub(EchoServiceStub).Echo(EchoRequest(message="from outside"))


def test_a_removed_mesh_socket_is_made_again(short_dir: Path) -> None:
    with serve_mesh(short_dir, plugin_table("p", *MINIMAL), min_ready=1) as found:
        pid = found.ps()[0]["pid"]
        found.socket.unlink()
        found.wait_for_log("was removed; recreating")
        wait_for_server(found.socket)
        assert found.ps()[0]["pid"] == pid
        assert found.stop() == 0
        assert not found.socket.exists()


def serve_into(folder: Path, config: str, stderr: int) -> subprocess.Popen[bytes]:
    (folder / "mesh.toml").write_text(config)
    command = [sys.executable, "-m", "meshtrio", "serve", str(folder / "mesh.toml")]
    return subprocess.Popen(
        [*command, "--runtime-dir", str(folder / "run")], stderr=stderr, start_new_session=True
    )


CHATTER = {"lines_per_second": 1e6, "burst": 1_000_000}


def test_a_full_disk_for_the_log_harms_nobody(short_dir: Path) -> None:
    config = plugin_table("chatty", "startup_faults.py", "chatter", output=CHATTER) + plugin_table(
        "p", *MINIMAL
    )
    with open("/dev/full", "wb") as full:
        process = serve_into(short_dir, config, full.fileno())
    found = MeshProcess(process, short_dir / "run", short_dir / "no-log")
    wait_for_server(found.socket)
    wait_until(lambda: found.ps()[1]["state"] == "ready")
    process.send_signal(signal.SIGTERM)
    assert process.wait(20) == 0


def test_a_log_that_nobody_reads_holds_nobody_up(short_dir: Path) -> None:
    config = plugin_table("chatty", "startup_faults.py", "chatter", output=CHATTER) + plugin_table(
        "p", *MINIMAL
    )
    reading, writing = os.pipe()
    try:
        process = serve_into(short_dir, config, writing)
        found = MeshProcess(process, short_dir / "run", short_dir / "no-log")
        wait_for_server(found.socket)
        wait_until(lambda: found.ps()[1]["state"] == "ready")
        (pid,) = [row["pid"] for row in found.ps() if row["name"] == "chatty"]
        # It has written far more than any pipe holds, and sleeps.
        wait_until(lambda: at_rest(pid))
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
    finally:
        os.close(writing)
        os.close(reading)


def at_rest(pid: int) -> bool:
    """Return whether a process has used no CPU for half a second."""

    def used() -> int:
        return int(Path(f"/proc/{pid}/schedstat").read_text().split()[0])

    before = used()
    time.sleep(0.5)
    return before == used() != 0


async def test_a_jumping_clock_changes_nothing(
    short_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The clock of the wall goes back and forth by hours; nothing here may go by it."""
    real, jumps = time.time, iter(range(10**9))
    monkeypatch.setattr(time, "time", lambda: real() + 36_000 * (next(jumps) % 3 - 1))
    config = plugin_table("p", *MINIMAL, liveness=QUICK, max_age=3600.0, backoff=AT_ONCE)
    async with run_mesh(config, short_dir) as watched:
        await watched.wait_for_event(events.Ready)
        await trio.sleep(1.5)
        assert [status.state for status in watched.mesh.instances()] == [InstanceState.READY]
        assert not watched.find_events(events.Renewing)
        os.kill(watched.mesh.instances()[0].pid or 0, signal.SIGKILL)
        await watched.wait_for_event(events.Ready, count=2)
        (restarting,) = watched.find_events(events.Restarting)
        assert restarting.event.delay < 1  # type: ignore[attr-defined]


def test_a_mesh_that_was_stopped_itself_blames_no_plugin(short_dir: Path) -> None:
    """A laptop that slept, a machine that was frozen: every deadline has passed at once."""
    # A second is enough for the plugin to answer even on a machine that is busy.
    liveness = {**QUICK, "timeout": 1.0, "failure_threshold": 1}
    with serve_mesh(
        short_dir, plugin_table("p", *MINIMAL, liveness=liveness), min_ready=1
    ) as found:
        for _ in range(4):
            os.kill(found.process.pid, signal.SIGSTOP)
            time.sleep(2.0)
            os.kill(found.process.pid, signal.SIGCONT)
            time.sleep(0.25)
        assert restarts(found) == {"p": 0}
        assert "health check" not in found.log
        assert found.stop() == 0
