"""An upgrade keeps plugins of all kinds, and what tasks have done."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support.mesh_processes import (
    MeshProcess,
    echo_plugin_table,
    plugin_table,
    serve_mesh,
    wait_until,
)
from tests.support.ports import find_free_port
from tests.support.upgrades import connecting_all_the_time, identify, upgrade

# Reports by the protocol itself, since not every machine has systemd-notify.
NOTIFYING = """
import os, signal, socket
sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
sock.connect(os.environ["NOTIFY_SOCKET"])
signal.signal(signal.SIGUSR1, lambda *_: sock.send(b"STATUS=told after it"))
sock.send(b"READY=1\\nSTATUS=told before it")
while True:
    signal.pause()
"""
NEWLINE = "import os, signal; os.write(7, b'\\n'); signal.pause()"


def find_row(mesh: MeshProcess, name: str) -> dict[str, Any]:
    (row,) = (row for row in mesh.ps() if row["name"] == name)
    return row


def test_processes_that_report_by_themselves_are_kept(short_dir: Path) -> None:
    config = plugin_table("notifying", "-c", NOTIFYING, ready="notify", service=False)
    config += plugin_table("newline", "-c", NEWLINE, ready="fd:7", service=False, start="exec")
    config += plugin_table("started", "-c", "import time; time.sleep(600)", ready="started")
    with serve_mesh(short_dir, config, min_ready=3) as mesh:
        before = identify(mesh)
        for _ in range(2):
            upgrade(mesh)
            assert identify(mesh) == before
        assert find_row(mesh, "notifying")["status"] == "told before it"
        os.kill(find_row(mesh, "notifying")["pid"], signal.SIGUSR1)
        wait_until(lambda: find_row(mesh, "notifying")["status"] == "told after it")
        for name in ("notifying", "newline", "started"):
            assert mesh.run_command("restart", name).returncode == 0
        assert mesh.stop() == 0


@pytest.mark.parametrize("is_tcp", [False, True])
def test_a_socket_that_the_mesh_holds_is_never_refused(short_dir: Path, is_tcp: bool) -> None:
    port = find_free_port()
    settings = {"listen": f"tcp://localhost:{port}"} if is_tcp else {}
    config = echo_plugin_table(listen_fds=True, backoff={"initial": 0.1}, **settings)
    with serve_mesh(short_dir, config, min_ready=1) as mesh:
        before = identify(mesh)
        address = ("127.0.0.1", port) if is_tcp else Path(find_row(mesh, "echo")["socket"])
        with connecting_all_the_time(address) as refused:
            for _ in range(2):
                upgrade(mesh)
            assert identify(mesh) == before
            # The next process gets the same socket.
            os.kill(find_row(mesh, "echo")["pid"], signal.SIGKILL)
            wait_until(lambda: find_row(mesh, "echo")["restarts"] == 1)
            wait_until(lambda: find_row(mesh, "echo")["state"] == "ready")
            assert mesh.run_command("restart", "echo").returncode == 0
            upgrade(mesh)
        assert not refused
        assert mesh.stop() == 0
    if not is_tcp:
        assert not Path(str(address)).exists()
    else:
        with socket.socket() as client:
            assert client.connect_ex(("127.0.0.1", port)) != 0


def test_what_tasks_have_done_is_known_afterwards(short_dir: Path) -> None:
    def task(name: str, *command: str, **settings: object) -> str:
        table = plugin_table(name, *command, start="exec", **settings)
        return table.replace("[[plugin]]", "[[task]]").replace('start = "exec"\n', "")

    config = task("migrate", "-c", f"open({str(short_dir / 'runs')!r}, 'a').write('x')")
    config += task("broken", "-c", "raise SystemExit(3)")
    config += task("yearly", "-c", "", schedule="0 0 1 1 *")
    config += echo_plugin_table("web", depends_on={"migrate": "completed"})
    config += echo_plugin_table("never", depends_on={"broken": "completed"})
    with serve_mesh(short_dir, config, min_ready=1) as mesh:
        wait_until(lambda: find_row(mesh, "broken")["state"] == "failed")
        before = mesh.ps()
        upgrade(mesh)
        for row in (*before, *(after := mesh.ps())):
            for varying in ("uptime", "ready_after", "resident", "proportional"):
                row.pop(varying, None)
        assert after == before
        assert mesh.run_command("restart", "web").returncode == 0
        assert mesh.stop() == 0
    assert (short_dir / "runs").read_text() == "x"


@pytest.mark.long  # The upgrade waits for half a minute.
def test_a_mesh_with_a_process_attached_is_not_upgraded(short_dir: Path) -> None:
    with serve_mesh(short_dir, echo_plugin_table(), min_ready=1) as mesh:
        sleeper = "import time; print('attached', flush=True); time.sleep(600)"
        command = (sys.executable, "-mmeshtrio", "attach", "echo/0", "--", "python3", "-c", sleeper)
        with subprocess.Popen(
            command,
            env=mesh.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            text=True,
        ) as attached:
            assert attached.stdout is not None
            assert attached.stdout.readline() == "attached\n"
            done = mesh.run_command("upgrade")
            assert done.returncode != 0
            assert f"while echo/0 is attached by pid {attached.pid}" in done.stderr
            attached.terminate()
        wait_until(lambda: find_row(mesh, "echo")["state"] == "ready")
        upgrade(mesh)
