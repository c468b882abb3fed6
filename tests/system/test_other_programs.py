"""Programs that serve no gRPC as plugins: supervised like others, and without a service."""

from __future__ import annotations

import os
import signal
import socket
from pathlib import Path

import purerpc
import pytest

from meshtrio import mesh
from meshtrio.config import load
from meshtrio.supervisor import events
from meshtrio.supervisor.policy.state import InstanceState
from tests.support.cli_commands import run_command_ok, run_failing_command, run_json_command
from tests.support.debian_programs import (
    nginx_table,
    program_table,
    redis_table,
    shell_table,
    write_nginx_config,
)
from tests.support.in_process_mesh import RecordedMesh, run_mesh
from tests.support.mesh_processes import echo_plugin_table, pids_with_environment, serve_mesh
from tests.support.ports import find_free_port

WORKER = program_table("worker", "sleep", "1000", ready="started")


async def test_a_started_worker_is_ready_and_its_dependents_start(short_dir: Path) -> None:
    config = WORKER + program_table("next", "sleep", "1000", ready="started", depends_on=["worker"])
    async with run_mesh(config, short_dir) as watched:
        await watched.wait_for_event(events.Ready, plugin="next")
        for status in watched.mesh.instances():
            assert (status.state, status.socket) == (InstanceState.READY, None)
        with pytest.raises(purerpc.NotFoundError, match="plugin worker has no service"):
            async with watched.mesh.connect("plugin.worker"):
                pass
        with pytest.raises(purerpc.NotFoundError, match="plugin worker has no service"):
            async with mesh.connect("plugin.worker", mesh_socket=watched.mesh.socket):
                pass
        await watched.mesh.restart("worker")
        await watched.mesh.stop("worker")
        await watched.mesh.start("worker")
        assert not watched.find_events(events.Exited)
    assert watched.mesh.shutdown_report.stopped == ("next/0", "worker/0")
    assert not watched.mesh.shutdown_report.cut_calls_unknown


def test_the_commands_show_a_plugin_without_a_service(short_dir: Path) -> None:
    config = WORKER + echo_plugin_table()
    with serve_mesh(short_dir, config, min_ready=2) as served:
        worker, echo = served.ps()
        assert (worker["state"], worker["socket"]) == ("ready", "")
        assert echo["socket"]
        assert [each["service"] for each in run_json_command(served, "services")] == ["plugin.echo"]
        assert "no service" in run_failing_command(served, "call", "plugin.worker", "a.B/C", "{}")
        assert "it has no service" in run_command_ok(served, "log-level", "worker")
        for command in (["tree"], ["ps"], ["top", "--once"]):
            assert "worker" in run_command_ok(served, *command)


async def test_a_reload_gives_and_takes_a_service(short_dir: Path) -> None:
    config = short_dir / "mesh.toml"
    async with run_mesh(echo_plugin_table(), short_dir) as watched:
        await watched.wait_for_event(events.Ready)
        config.write_text(echo_plugin_table(ready="started", service=False))
        loaded = load(config, runtime_dir=short_dir / "run")
        assert (await watched.mesh.reload(loaded)).restarted == ("echo",)
        with pytest.raises(purerpc.NotFoundError, match="plugin echo has no service"):
            async with watched.mesh.connect("plugin.echo"):
                pass
        config.write_text(echo_plugin_table())
        await watched.mesh.reload(load(config, runtime_dir=short_dir / "run"))
        async with watched.mesh.connect("plugin.echo"):
            pass


def get_pid(watched: RecordedMesh) -> int:
    pid = watched.mesh.instances()[0].pid
    assert pid is not None
    return pid


async def check_restart_crash_and_stop(watched: RecordedMesh, name: str) -> None:
    """Restart, kill and stop the one plugin, which has a fixed address."""
    ready = (await watched.wait_for_event(events.Ready)).event
    await watched.mesh.restart(name)
    kinds = [type(each.event) for each in watched.events if hasattr(each.event, "pid")]
    kinds = [kind for kind in kinds if kind is not events.LineWritten]
    assert kinds == [
        *(events.Starting, events.Ready, events.Stopping, events.Stopped),
        *(events.Starting, events.Ready),
    ]
    pid = get_pid(watched)
    assert pid != getattr(ready, "pid")  # noqa: B009
    watched.clear_events()
    os.kill(pid, signal.SIGKILL)
    await watched.wait_for_event(events.Ready)
    (result,) = await watched.mesh.drain(name)
    assert not result.was_killed


def assert_nothing_is_left(folder: Path) -> None:
    assert not pids_with_environment(f"PLUGIN_SOCKET={folder}/")


async def test_redis_by_tcp(short_dir: Path) -> None:
    port = find_free_port()
    options = ["--port", str(port), "--bind", "127.0.0.1"]
    async with run_mesh(redis_table(*options, ready=f"tcp:127.0.0.1:{port}"), short_dir) as watched:
        await check_restart_crash_and_stop(watched, "redis")
    assert_nothing_is_left(short_dir)


async def test_redis_by_unix_socket(short_dir: Path) -> None:
    path = short_dir / "redis.sock"
    options = ["--port", "0", "--unixsocket", str(path)]
    async with run_mesh(redis_table(*options, ready=f"unix:{path}"), short_dir) as watched:
        await check_restart_crash_and_stop(watched, "redis")
    assert_nothing_is_left(short_dir)


async def test_nginx_by_http(short_dir: Path) -> None:
    port = find_free_port()
    table = nginx_table(short_dir, port, ready=f"http://127.0.0.1:{port}/health")
    async with run_mesh(table, short_dir) as watched:
        await check_restart_crash_and_stop(watched, "nginx")
    assert_nothing_is_left(short_dir)


async def test_nginx_that_answers_with_an_error_is_not_ready_until_it_does_not(
    short_dir: Path,
) -> None:
    port = find_free_port()
    liveness = {"interval": 0.1}
    ready = f"http://127.0.0.1:{port}/health"
    table = nginx_table(short_dir, port, ready=ready, liveness=liveness)
    async with run_mesh(table, short_dir) as watched:
        await watched.wait_for_event(events.Ready)
        write_nginx_config(short_dir, port, 503)
        os.kill(get_pid(watched), signal.SIGHUP)
        unready = (await watched.wait_for_event(events.Unready)).event
        assert getattr(unready, "reason") == "it answers GET /health with 503"  # noqa: B009
        write_nginx_config(short_dir, port, 301)
        os.kill(get_pid(watched), signal.SIGHUP)
        await watched.wait_for_event(events.Ready, was_ready_before=True)
        assert not watched.find_events(events.Exited)


@pytest.mark.parametrize("kind", ["tcp:", "http://"])
async def test_another_program_at_the_address_is_not_taken_for_the_plugin(
    kind: str, short_dir: Path
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        address = f"127.0.0.1:{other.getsockname()[1]}"
        table = program_table("late", "sleep", "1000", ready=f"{kind}{address}")
        async with run_mesh(table, short_dir) as watched:
            event = (await watched.wait_for_event(events.NotStarted)).event
            text = f"another program answers at tcp:{address} already"
            assert text in str(getattr(event, "exit"))  # noqa: B009


async def test_a_program_that_takes_the_address_later_is_not_taken_for_the_plugin(
    short_dir: Path,
) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        address = f"tcp:127.0.0.1:{other.getsockname()[1]}"
        table = program_table("late", "sleep", "1000", ready=address, ready_timeout=1)
        async with run_mesh(table, short_dir) as watched:
            await watched.wait_for_event(events.Starting)
            other.listen()
            event = (await watched.wait_for_event(events.Exited)).event
            text = "was not ready within 1 s: another program"
            assert text in str(getattr(event, "exit"))  # noqa: B009


async def test_the_other_program_may_be_meant(short_dir: Path) -> None:
    """A server that another program runs, as docker does."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        address = f"tcp:127.0.0.1:{other.getsockname()[1]}"
        table = program_table("own", "sleep", "1000", ready=address, verify_server=False)
        async with run_mesh(table, short_dir) as watched:
            await watched.wait_for_event(events.Ready)


@pytest.mark.parametrize("fd", [3, 7, 9, 63])
async def test_a_newline_on_a_descriptor(fd: int, short_dir: Path) -> None:
    """Whatever number the mesh's pidfd has, the program gets both."""
    script = f"readlink /proc/self/fd/$MESH_PIDFD; readlink /proc/self/fd/{fd}; read x <&0; "
    script += f"echo >&{fd}; exec sleep 1000"
    table = program_table("s6", "bash", "-c", script, ready=f"fd:{fd}", service=False)
    async with run_mesh(table, short_dir) as watched:
        await watched.wait_for_event(events.Ready)
        lines = [getattr(each.event, "line") for each in watched.find_events(events.LineWritten)]  # noqa: B009
        await watched.mesh.restart("s6")
        await watched.mesh.stop("s6")
        assert not watched.find_events(events.Exited)
    assert "pidfd" in lines[0]
    assert lines[1].startswith("pipe:")


async def test_a_program_that_closes_the_descriptor_is_not_ready(short_dir: Path) -> None:
    table = shell_table(
        "s6", "exec sleep 1000 3>&-", ready="fd:3", service=False, ready_timeout=0.5
    )
    async with run_mesh(table, short_dir) as watched:
        event = (await watched.wait_for_event(events.Exited)).event
        text = "it has closed descriptor 3 without a newline"
        assert text in str(getattr(event, "exit"))  # noqa: B009
