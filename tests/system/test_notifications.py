"""Plugins that report by sd_notify(3): well, badly, and in the name of others."""

from __future__ import annotations

import os
import signal
import socket
import sys
import time
from pathlib import Path

import pytest
import trio

from meshtrio.config import StartMethod
from meshtrio.supervisor import events
from meshtrio.supervisor.policy.state import InstanceState
from tests.support.debian_programs import redis_table, shell_table
from tests.support.in_process_mesh import RecordedMesh, run_mesh
from tests.support.logs import watch_log
from tests.support.loop_latency import measure_loop_latency
from tests.support.mesh_processes import (
    ECHO_PLUGIN_DIRECTORY,
    plugin_table,
    run_meshtrio,
    serve_mesh,
)
from tests.support.ports import find_free_port
from tests.tools import find_debian_tool

FOREVER = "sleep:1000"
PYTHON = f"{sys.executable} -I -S"
SEND = (
    "import os, socket; s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM); "
    "s.sendto(b'READY=1', os.environ['NOTIFY_SOCKET'])"
)


def notifier_table(*steps: str, **settings: object) -> str:
    """Return a [[plugin]] table of a program that takes these steps."""
    values = {"ready": "notify", "service": False, "start": "exec", **settings}
    return plugin_table("p", "-I", "-S", "notifier.py", *steps, **values)


def get_text(watched: RecordedMesh, kind: type[events.LifecycleEvent]) -> str:
    """Return how the first process ended, or why it is not ready."""
    event = watched.find_events(kind)[0].event
    return str(getattr(event, "exit", None) or getattr(event, "reason", ""))


async def wait_for_status(watched: RecordedMesh, status: str) -> None:
    with trio.fail_after(60):
        while watched.mesh.instances()[0].status != status:  # noqa: ASYNC110
            await trio.sleep(0.005)


def assert_no_socket_is_left(folder: Path) -> None:
    assert not list((folder / "run").glob("*.notify.sock"))


async def test_ready_and_status(short_dir: Path) -> None:
    steps = ["STATUS=loading", "sleep:0.1", "READY=1\nSTATUS=serving", FOREVER]
    async with run_mesh(notifier_table(*steps), short_dir) as watched:
        await watched.wait_for_event(events.Ready)
        await wait_for_status(watched, "serving")
        (path,) = (short_dir / "run").glob("*.notify.sock")
        assert path.stat().st_mode & 0o777 == 0o600
        await watched.mesh.restart("p")
        await watched.mesh.stop("p")
        assert watched.mesh.instances()[0].status == ""
        assert_no_socket_is_left(short_dir)
        await watched.mesh.start("p")
    assert_no_socket_is_left(short_dir)


def test_the_status_is_shown(short_dir: Path) -> None:
    table = notifier_table("STATUS=\x1b[31m42 jobs\nREADY=1", FOREVER)
    with serve_mesh(short_dir, table, min_ready=1) as served:
        (row,) = served.ps()
        assert row["status"] == "\\x1b[31m42 jobs"
        shown = served.run_command("ps").stdout
        assert "\\x1b[31m42 jobs" in shown
        assert "\x1b" not in shown


@pytest.mark.parametrize("options", ["", "--no-block"])
async def test_systemd_notify_in_a_script(options: str, short_dir: Path) -> None:
    """The sender is a child that exits at once."""
    find_debian_tool("systemd-notify")
    script = f"systemd-notify {options} --ready --status='up and running'; exec sleep 1000"
    table = shell_table("p", script, ready="notify", service=False)
    async with run_mesh(table, short_dir) as watched:
        await watched.wait_for_event(events.Ready)
        await wait_for_status(watched, "up and running")
        await watched.mesh.restart("p")


@pytest.mark.parametrize("prefix", ["", "setsid "])
async def test_a_sender_that_has_exited(prefix: str, short_dir: Path) -> None:
    script = f'{prefix}{PYTHON} -c "{SEND}"; exec sleep 1000'
    table = shell_table("p", script, ready="notify", service=False)
    async with run_mesh(table, short_dir) as watched:
        await watched.wait_for_event(events.Ready)
        assert not watched.find_events(events.Exited)


async def test_a_child_in_another_session(short_dir: Path) -> None:
    async with run_mesh(notifier_table("fork:READY=1", FOREVER), short_dir) as watched:
        await watched.wait_for_event(events.Ready)


@pytest.mark.skipif(os.geteuid() != 0, reason="runs a plugin as another user")
@pytest.mark.parametrize("program", ["systemd-notify", "notifier"])
async def test_a_plugin_of_another_user(program: str, short_dir: Path) -> None:
    short_dir.chmod(0o711)
    containment = {"user": "nobody"}
    if program == "notifier":
        copy = short_dir / "notifier.py"
        copy.write_text((Path(__file__).parents[1] / "plugins" / "notifier.py").read_text())
        copy.chmod(0o644)
        table = shell_table(
            "p", f"exec /usr/bin/env python3 -I -S {copy} READY=1 {FOREVER}", cwd="/",
            ready="notify", service=False, containment=containment,
        )  # fmt: skip
    else:
        find_debian_tool("systemd-notify")
        script = "systemd-notify --ready; exec sleep 1000"
        settings = {"ready": "notify", "service": False, "cwd": "/"}
        table = shell_table("p", script, containment=containment, **settings)
    async with run_mesh(table, short_dir) as watched:
        await watched.wait_for_event(events.Ready)


async def test_redis_that_notifies(short_dir: Path) -> None:
    port = find_free_port()
    options = ["--port", str(port), "--bind", "127.0.0.1", "--supervised", "systemd"]
    settings = {"ready": "notify", "service": False, "replace": "stop-first"}
    async with run_mesh(redis_table(*options, **settings), short_dir) as watched:
        await watched.wait_for_event(events.Ready)
        await wait_for_status(watched, "Ready to accept connections")
        await watched.mesh.restart("redis")
        await wait_for_status(watched, "Ready to accept connections")
        os.kill(watched.mesh.instances()[0].pid or 0, signal.SIGKILL)
        await watched.wait_for_event(events.Ready, count=3)


async def test_a_service_is_called_once_it_listens(short_dir: Path) -> None:
    script = f'{PYTHON} -c "{SEND}"; exec {sys.executable} echo_plugin.py'
    table = shell_table("echo", script, ready="notify", cwd=str(ECHO_PLUGIN_DIRECTORY))
    async with run_mesh(table, short_dir) as watched:
        await watched.wait_for_event(events.Ready)
        state = await watched.resolve("plugin.echo")
        assert [each.server_uid for each in state.endpoints] == [os.geteuid()]


async def test_a_service_that_does_not_listen_is_not_ready(short_dir: Path) -> None:
    table = notifier_table("READY=1", FOREVER, service=True, ready_timeout=0.5)
    async with run_mesh(table, short_dir) as watched:
        await watched.wait_for_event(events.Exited)
        text = "it has not bound its socket; a program that serves no gRPC there needs `service"
        assert text in get_text(watched, events.Exited)


# -- timeouts --------------------------------------------------------------------------------


async def test_more_time_to_become_ready(short_dir: Path) -> None:
    steps = ["EXTEND_TIMEOUT_USEC=60000000", "sleep:1.5", "READY=1", FOREVER]
    async with run_mesh(notifier_table(*steps, ready_timeout=0.7), short_dir) as watched:
        await watched.wait_for_event(events.Ready)
        assert not watched.find_events(events.Exited)


async def test_more_time_that_is_used_up(short_dir: Path) -> None:
    steps = ["STATUS=recovering", "EXTEND_TIMEOUT_USEC=1000000", FOREVER]
    table = notifier_table(*steps, ready_timeout=0.7, restart="never")
    async with run_mesh(table, short_dir) as watched:
        await watched.wait_for_event(events.Exited)
        text = get_text(watched, events.Exited)
        assert "it has not sent READY=1, nor asked for more time again" in text
        assert "its status is: recovering" in text


async def test_more_time_to_stop(short_dir: Path) -> None:
    env = {"ON_TERM": "EXTEND_TIMEOUT_USEC=60000000 sleep:1"}
    table = notifier_table("READY=1", FOREVER, stop_timeout=0.5, env=env)
    async with run_mesh(table, short_dir) as watched:
        await watched.wait_for_event(events.Ready)
        (result,) = await watched.mesh.drain("p")
        assert not result.was_killed
        assert result.exit is not None
        assert result.exit.status == 0


# -- stopping and watchdog -------------------------------------------------------------------


async def test_a_process_that_stops_by_itself_leaves_at_once(short_dir: Path) -> None:
    steps = ["READY=1", "STOPPING=1\nSTATUS=bye", "READY=1", "sleep:0.3", "exit"]
    async with run_mesh(notifier_table(*steps, restart="never"), short_dir) as watched:
        await watched.wait_for_event(events.Unready)
        assert get_text(watched, events.Unready) == "it reports that it is stopping"
        await watched.wait_for_event(events.GaveUp)
        assert get_text(watched, events.Exited) == "exited with status 0"
        assert len(watched.find_events(events.Ready)) == 1
        assert len(watched.find_events(events.Unready)) == 1


@pytest.mark.parametrize("more", [[], ["EXTEND_TIMEOUT_USEC=1000000"]])
async def test_a_process_that_only_says_that_it_stops_is_killed(
    more: list[str], short_dir: Path
) -> None:
    table = notifier_table("READY=1", "STOPPING=1", *more, FOREVER, stop_timeout=0.5)
    async with run_mesh(table, short_dir) as watched:
        unready = await watched.wait_for_event(events.Unready)
        exited = await watched.wait_for_event(events.Exited)
        assert exited.time - unready.time > (0.9 if more else 0.4)
        text = "reported that it was stopping, and did not exit within 0.5 s"
        assert text in get_text(watched, events.Exited)
        await watched.wait_for_event(events.Ready, count=2)


async def test_a_plugin_that_is_forked(short_dir: Path) -> None:
    table = plugin_table(
        "p", "notifier.py", "READY=1", FOREVER, ready="notify", service=False, start="fork"
    )
    async with run_mesh(table, short_dir) as watched:
        ready = (await watched.wait_for_event(events.Ready)).event
        assert getattr(ready, "start") is StartMethod.FORK  # noqa: B009


async def test_its_liveness_does_not_make_it_ready_again(short_dir: Path) -> None:
    liveness = {"interval": 0.05, "timeout": 0.1}
    steps = ["READY=1", "WATCHDOG=1", "STOPPING=1", "ping:0.02,1", "exit"]
    async with run_mesh(notifier_table(*steps, liveness=liveness), short_dir) as watched:
        await watched.wait_for_event(events.Unready)
        await watched.wait_for_event(events.Exited)
        assert not watched.find_events(events.Ready, was_ready_before=True)


QUICK = {"interval": 0.2, "timeout": 0.2, "failure_threshold": 2, "check": "notify"}


async def test_a_process_that_sends_nothing_any_more_is_killed(short_dir: Path) -> None:
    steps = ["READY=1", "ping:0.05,1", FOREVER]
    async with run_mesh(notifier_table(*steps, liveness=QUICK), short_dir) as watched:
        exited = await watched.wait_for_event(events.Exited)
        ready = watched.find_events(events.Ready)[0]
        assert exited.time - ready.time > 1
        text = get_text(watched, events.Exited)
        assert "failed 2 health checks in a row: it has not sent WATCHDOG=1 for" in text
        await watched.wait_for_event(events.Ready, count=2)


async def test_a_stopped_process_is_killed(short_dir: Path) -> None:
    steps = ["READY=1", "ping:0.05,1000"]
    async with run_mesh(notifier_table(*steps, liveness=QUICK), short_dir) as watched:
        ready = (await watched.wait_for_event(events.Ready)).event
        os.kill(getattr(ready, "pid"), signal.SIGSTOP)  # noqa: B009
        await watched.wait_for_event(events.Exited)
        await watched.wait_for_event(events.Ready, count=2)


@pytest.mark.parametrize(
    ("liveness", "is_killed"), [({}, False), ({"check": "notify"}, True)], ids=["implied", "named"]
)
async def test_a_process_that_has_no_watchdog(
    liveness: dict[str, object], is_killed: bool, short_dir: Path
) -> None:
    """It is checked only if the config names the check."""
    timing = {"interval": 0.05, "timeout": 0.05, "failure_threshold": 2}
    table = notifier_table(
        "READY=1", "sleep:1.5", "STATUS=alive", FOREVER, liveness=timing | liveness
    )
    async with run_mesh(table, short_dir) as watched:
        if is_killed:
            await watched.wait_for_event(events.Exited)
        else:
            await wait_for_status(watched, "alive")
            assert not watched.find_events(events.Exited)


async def test_a_process_may_change_its_watchdog(short_dir: Path) -> None:
    liveness = {**QUICK, "interval": 0.05, "timeout": 0.05}
    steps = ["READY=1\nWATCHDOG_USEC=60000000", "sleep:1", "STATUS=alive", FOREVER]
    async with run_mesh(notifier_table(*steps, liveness=liveness), short_dir) as watched:
        await wait_for_status(watched, "alive")
        assert not watched.find_events(events.Exited)


async def test_a_process_may_ask_to_be_ended(short_dir: Path) -> None:
    steps = ["READY=1", "WATCHDOG=trigger", FOREVER]
    async with run_mesh(notifier_table(*steps, restart="never"), short_dir) as watched:
        await watched.wait_for_event(events.Exited)
        assert "WATCHDOG=trigger" in get_text(watched, events.Exited)


async def test_the_variables_of_a_plugin_with_a_watchdog(short_dir: Path) -> None:
    """The socket is there for `liveness.check` alone, too."""
    script = "env | sed -n 's/^\\(NOTIFY\\|WATCHDOG\\)\\(.*\\)=.*/has \\1\\2/p' | sort | xargs echo"
    table = shell_table("p", script, ready="started", liveness=QUICK)
    async with run_mesh(table, short_dir) as watched:
        await watched.wait_for_line("has NOTIFY_SOCKET has WATCHDOG_USEC")


# -- what a process must not do to the mesh --------------------------------------------------


async def test_garbage_is_ignored(short_dir: Path) -> None:
    table = notifier_table("garbage", "STATUS=still here", FOREVER, ready_timeout=1)
    with watch_log("ignored a malformed notification") as malformed:
        with watch_log("longer than 4096 bytes") as too_long:
            async with run_mesh(table, short_dir) as watched:
                await wait_for_status(watched, "still here")
                assert malformed.is_set()
                assert too_long.is_set()
                assert watched.mesh.instances()[0].state is InstanceState.STARTING


async def test_descriptors_are_closed(short_dir: Path) -> None:
    async with run_mesh(notifier_table("READY=1", "descriptors", FOREVER), short_dir) as watched:
        await watched.wait_for_event(events.Ready)
        before = len(os.listdir("/proc/self/fd"))
        await watched.mesh.restart("p")
        await watched.mesh.restart("p")
        assert len(os.listdir("/proc/self/fd")) <= before + 2
        assert not watched.find_events(events.Exited)


async def test_a_foreign_process_is_not_believed(short_dir: Path) -> None:
    table = notifier_table("STATUS=mine", FOREVER, ready_timeout=1, restart="never")
    with watch_log("which is none of its processes") as ignored:
        async with run_mesh(table, short_dir) as watched:
            await wait_for_status(watched, "mine")
            (path,) = (short_dir / "run").glob("*.notify.sock")
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
                for _ in range(20):
                    sock.sendto(b"READY=1\nSTATUS=forged", str(path))
                    await trio.sleep(0.001)
            await watched.wait_for_event(events.Exited)
            assert ignored.is_set()
            assert not watched.find_events(events.Ready)
            assert watched.mesh.instances()[0].status in ("", "mine")


async def test_a_flood_harms_nobody_else(short_dir: Path) -> None:
    table = notifier_table("READY=1", "flood:1000")
    other = shell_table("other", "exec sleep 1000", ready="started")
    async with run_mesh(table + other, short_dir) as watched:
        await watched.wait_for_event(events.Ready, plugin="p")
        before = time.thread_time()
        await trio.sleep(1)
        assert time.thread_time() - before < 0.5
        async with measure_loop_latency() as latency:
            await trio.sleep(1)
        assert latency.max_cpu_time < 0.05
        await watched.mesh.restart("other")


async def test_a_killed_mesh_leaves_a_socket_that_the_next_one_removes(short_dir: Path) -> None:
    table = notifier_table("READY=1", FOREVER)
    with serve_mesh(short_dir, table, min_ready=1) as served:
        served.process.kill()
        served.process.wait()
    assert list((short_dir / "run").glob("*.notify.sock"))
    with serve_mesh(short_dir, table, min_ready=1) as served:
        assert served.stop() == 0
    assert_no_socket_is_left(short_dir)


def test_a_path_that_is_too_long_is_a_config_error(short_dir: Path) -> None:
    folder = short_dir / ("x" * (100 - len(str(short_dir))))
    folder.mkdir()
    (folder / "mesh.toml").write_text(
        '[[plugin]]\nname = "p"\ncommand = ["true"]\nready = "notify"'
    )
    done = run_meshtrio("check", str(folder / "mesh.toml"), "--runtime-dir", str(folder))
    assert done.returncode == 2
    assert "p-0.b.notify.sock: a socket's path may have 107 bytes" in done.stderr
