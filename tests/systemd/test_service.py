"""A mesh that reports to a service manager, as processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.support.mesh_processes import (
    MINIMAL_COMMAND,
    plugin_table,
    run_meshtrio,
    serve_mesh,
)
from tests.support.service_managers import (
    BLOCKING_MESH,
    NotificationReceiver,
    notification_receiver,
)

P = plugin_table("p", *MINIMAL_COMMAND)


@pytest.mark.parametrize("is_abstract", [False, True])
def test_start_reload_and_stop(short_dir: Path, is_abstract: bool) -> None:
    address = f"@{short_dir}/notify" if is_abstract else f"{short_dir}/notify"
    broken = plugin_table("broken", "-c", "raise SystemExit(3)", restart="never")
    with notification_receiver(address) as received:
        env = {"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "2000000"}
        with serve_mesh(short_dir, P + broken, env=env) as mesh:
            ready = received.wait_for(READY="1")
            text = "1 of 2 plugins ready; broken failed: exited with status 3"
            assert ready["STATUS"] == text
            assert received.messages[-1] is ready
            assert int(received.messages[0]["EXTEND_TIMEOUT_USEC"]) > 30_000_000
            received.wait_for(WATCHDOG="1")

            (short_dir / "mesh.toml").write_text(P + plugin_table("q", *MINIMAL_COMMAND))
            before = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
            assert mesh.run_command("reload").returncode == 0
            reloading = received.wait_for(RELOADING="1")
            now = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
            assert before <= int(reloading["MONOTONIC_USEC"]) <= now
            assert received.wait_for(READY="1")["STATUS"] == "2 of 2 plugins ready"

            (short_dir / "mesh.toml").write_text("[[plugin]]\n")
            assert mesh.run_command("reload").returncode == 2
            received.wait_for(RELOADING="1")
            status = received.wait_for(READY="1")["STATUS"]
            assert status.startswith("2 of 2 plugins ready; the last reload failed: ")
            assert "mesh.toml" in status

            assert mesh.stop() == 0
            received.wait_for(STOPPING="1")
            received.wait_for(STATUS="stopping: all plugins have stopped")
            received.drain()
        assert received.states() == [
            *("READY", "RELOADING", "READY", "RELOADING", "READY", "STOPPING"),
        ]


def test_a_plugin_that_waits_for_a_failed_task_does_not_delay_it(short_dir: Path) -> None:
    address = f"{short_dir}/notify"
    task = '[[task]]\nname = "migrate"\ncommand = ["false"]\n'
    web = plugin_table("web", *MINIMAL_COMMAND, depends_on={"migrate": "completed"})
    with (
        notification_receiver(address) as received,
        serve_mesh(short_dir, P + task + web, env={"NOTIFY_SOCKET": address}),
    ):
        assert received.wait_for(READY="1")["STATUS"].startswith("1 of 2 plugins ready; web ")


def test_a_plugin_that_drains_extends_the_timeout(short_dir: Path) -> None:
    address = f"{short_dir}/notify"
    stubborn = short_dir / "stubborn.py"
    stubborn.write_text(
        "import runpy, signal\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        f"runpy.run_path({MINIMAL_COMMAND[-1]!r}, run_name='__main__')\n"
    )
    table = plugin_table("slow", "-I", "-S", str(stubborn), stop_timeout=60)
    with notification_receiver(address) as received:
        with serve_mesh(short_dir, table, env={"NOTIFY_SOCKET": address}) as mesh:
            received.wait_for(READY="1")
            (pid,) = [row["pid"] for row in mesh.ps()]
            mesh.process.terminate()
            stopping = received.wait_for(STOPPING="1")
            assert stopping["STATUS"] == "stopping: 1 of 1 plugin still running: slow"
            extended = received.wait_for(EXTEND_TIMEOUT_USEC="")
            assert int(extended["EXTEND_TIMEOUT_USEC"]) > 30_000_000
            os.kill(pid, signal.SIGKILL)
            assert mesh.process.wait(60) == 0


def wait_for_silence(received: NotificationReceiver, seconds: float) -> None:
    end = time.monotonic() + 60
    while received.receive(seconds) is not None:
        assert time.monotonic() < end, "messages still arrive"


def test_a_mesh_whose_loop_is_stuck_sends_nothing_to_the_watchdog(short_dir: Path) -> None:
    address = f"{short_dir}/notify"
    env = {"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "400000"}
    with notification_receiver(address) as received:
        prefix = [sys.executable, "-c", BLOCKING_MESH]
        with serve_mesh(short_dir, P, prefix=prefix, env=env) as mesh:
            received.wait_for(READY="1")
            for _ in range(4):
                received.wait_for(WATCHDOG="1")
            (pid,) = [row["pid"] for row in mesh.ps()]
            os.kill(pid, signal.SIGKILL)
            wait_for_silence(received, 2)
            assert mesh.process.poll() is None
            # As systemd does then; the log has the line at which it is stuck.
            assert mesh.stop(signal.SIGABRT) == -signal.SIGABRT
            assert " in block\n" in mesh.log


def test_a_start_that_fails_is_the_last_status(short_dir: Path) -> None:
    address = f"{short_dir}/notify"
    (short_dir / "run").write_text("in the way")
    (short_dir / "mesh.toml").write_text(P)
    with notification_receiver(address) as received:
        done = run_meshtrio(
            *("serve", f"{short_dir}/mesh.toml", "--runtime-dir", f"{short_dir}/run"),
            env={**os.environ, "NOTIFY_SOCKET": address},
        )
        assert done.returncode == 2
        received.drain()
        (message,) = received.messages
        assert message["STATUS"].startswith(f"failed: the runtime dir {short_dir}/run is not")


def test_plugins_and_embedded_meshes_do_not_speak_for_the_service(short_dir: Path) -> None:
    """Not even a plugin whose config asks for the variable: it would be that of the mesh."""
    address = f"{short_dir}/notify"
    names = ["NOTIFY_SOCKET", "WATCHDOG_USEC", "LISTEN_FDS"]
    show = f"import os; print('has', sorted(set({names}) & set(os.environ)), flush=True)"
    table = plugin_table("p", "-c", show, restart="never", inherit_env=names)
    embedded = (
        "import sys, trio\nfrom meshtrio import mesh\nfrom meshtrio.config import MeshConfig\n"
        "async def run():\n"
        "    async with trio.open_nursery() as nursery:\n"
        "        await nursery.start(mesh.main, MeshConfig(runtime_dir=sys.argv[1]))\n"
        "        nursery.cancel_scope.cancel()\n"
        "trio.run(run)\n"
    )
    with notification_receiver(address) as received:
        env = {"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "1000000", "LISTEN_FDS": "1"}
        with serve_mesh(short_dir, table, env=env) as mesh:
            mesh.wait_for_log("has []")
            received.wait_for(READY="1")
        received.drain()
        before = len(received.messages)
        command = [sys.executable, "-c", embedded, f"{short_dir}/embedded"]
        subprocess.run(command, env={**os.environ, **env}, check=True, timeout=60)
        received.drain()
        assert len(received.messages) == before


@pytest.mark.parametrize(
    ("env", "text"),
    [
        ({"NOTIFY_SOCKET": "notify"}, "is neither a path nor @name"),
        ({"NOTIFY_SOCKET": "/dev/null"}, "cannot notify systemd at NOTIFY_SOCKET=/dev/null"),
        ({"NOTIFY_SOCKET": "/nowhere/notify"}, "No such file or directory"),
        ({"NOTIFY_SOCKET": "/nowhere", "WATCHDOG_USEC": "0"}, "WATCHDOG_USEC='0' is not a number"),
        ({"NOTIFY_SOCKET": "/nowhere", "WATCHDOG_USEC": "-1"}, "WATCHDOG_USEC='-1' is not"),
        ({"NOTIFY_SOCKET": "/nowhere", "WATCHDOG_PID": "x", "WATCHDOG_USEC": "9"}, "WATCHDOG_PID"),
    ],
)
def test_a_mesh_runs_whatever_the_variables_are(
    short_dir: Path, env: dict[str, str], text: str
) -> None:
    with serve_mesh(short_dir, P, env=env, min_ready=1) as mesh:
        mesh.wait_for_log(text)
        assert [row["state"] for row in mesh.ps()] == ["ready"]
        assert mesh.stop() == 0
        assert mesh.log.count(text) == 1
