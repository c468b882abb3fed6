"""Plugins that are started at their first connection or call, and stopped when they are idle."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from functools import partial
from pathlib import Path
from typing import Any

import attrs
import purerpc
import pytest
import trio
from echo.v1.echo_grpc import EchoServiceStub
from echo.v1.echo_pb2 import EchoRequest, SlowRequest

from meshtrio import mesh
from meshtrio.client.channel import Channel, connect_to
from meshtrio.client.multicallable import DynamicStub
from meshtrio.config import load
from meshtrio.contract import TARGET_METADATA_KEY
from meshtrio.errors import PluginFailedError
from meshtrio.messages import health
from meshtrio.supervisor import events
from meshtrio.transport.dial import connect_socket
from tests.support.in_process_mesh import RecordedMesh, run_mesh
from tests.support.mesh_processes import plugin_table, run_meshtrio, serve_mesh, wait_until
from tests.support.ports import find_free_port
from tests.support.upgrades import upgrade

ROUNDS = 10
QUICKLY = {"initial": 0.01, "maximum": 0.01}


def raw_table(*arguments: str, **settings: Any) -> str:
    """A plugin of the standard library that serves on the socket that it inherits."""
    program = ("held_socket_server.py", *(arguments or ("serve",)))
    values = {"start": "on-demand", "listen_fds": True, "backoff": QUICKLY, **settings}
    return plugin_table("p", *program, **values)


ANSWER_ONCE = """
import os, socket
connection, _ = socket.socket(fileno=3).accept()
connection.recv(100)
connection.sendall(str(os.getpid()).encode())
"""


def one_connection_table(**settings: Any) -> str:
    """A program that accepts one connection, answers with its pid, and exits with status 0."""
    values = {"listen_fds": True, "ready": "started", "restart": "on-failure", "backoff": QUICKLY}
    return plugin_table("p", "-c", ANSWER_ONCE, **{**values, **settings})


def echo_table(**settings: Any) -> str:
    values = {"start": "on-demand", "listen_fds": True, **settings}
    return plugin_table("echo", "sleeping_echo.py", **values)


def states(watched: RecordedMesh) -> list[str]:
    return [status.state.value for status in watched.mesh.instances()]


async def wait_for_states(watched: RecordedMesh, *expected: str) -> None:
    with trio.fail_after(60):
        while states(watched) != list(expected):  # noqa: ASYNC110 - no event tells this
            await trio.sleep(0.01)


async def wait_until_held(watched: RecordedMesh) -> None:
    """Wait until the socket of each idle instance accepts connections."""
    supervisor = watched.mesh._supervisor
    await supervisor.wait_until(lambda: all(each.is_available for each in supervisor.instances))


def raw_address(folder: Path) -> str:
    return f"unix:{folder}/run/p-0.held.sock"


def count_starts(watched: RecordedMesh) -> int:
    return len(watched.find_events(events.Starting))


def address_of(watched: RecordedMesh, number: int = 0) -> str:
    status = watched.mesh.instances()[number]
    config = watched.mesh._supervisor.config.plugins[0]
    return config.listen or f"unix:{status.socket}"


async def ask_who(address: str) -> int:
    """Return the pid of the process that accepts a connection."""
    with await connect_socket(address) as sock:
        stream = trio.SocketStream(trio.socket.from_stdlib_socket(sock))
        await stream.send_all(b"who")
        return int(b"".join([part async for part in stream]))


def connect_remotely(watched: RecordedMesh) -> AbstractAsyncContextManager[Channel]:
    return mesh.connect("plugin.echo", mesh_socket=watched.mesh.socket)


def connect_in_process(watched: RecordedMesh) -> AbstractAsyncContextManager[Channel]:
    return watched.mesh.connect("plugin.echo")


def connect_to_gateway(watched: RecordedMesh) -> AbstractAsyncContextManager[Channel]:
    return connect_to(
        f"unix:{watched.mesh.socket}", metadata=[(TARGET_METADATA_KEY, "plugin.echo")]
    )


Connector = Callable[[RecordedMesh], AbstractAsyncContextManager[Channel]]
CONNECTORS = (connect_remotely, connect_in_process, connect_to_gateway)


async def echo(channel: Channel, **options: Any) -> None:
    reply = await channel.stub(EchoServiceStub).Echo(EchoRequest(message="x"), **options)
    assert reply.message == "x"


# -- demand ---


@pytest.mark.parametrize("start", ["on-demand", "fork-on-demand"])
@pytest.mark.parametrize("is_tcp", [False, True])
async def test_each_connection_starts_a_program_that_ends_after_it(
    short_dir: Path, is_tcp: bool, start: str
) -> None:
    port = find_free_port()
    listen = {"listen": f"tcp://127.0.0.1:{port}"} if is_tcp else {}
    async with run_mesh(one_connection_table(start=start, **listen), short_dir) as watched:
        pids = set()
        for number in range(ROUNDS):
            await wait_for_states(watched, "idle")
            await wait_until_held(watched)
            address = f"tcp:127.0.0.1:{port}" if is_tcp else raw_address(short_dir)
            pids.add(await ask_who(address))
            await watched.wait_for_event(events.Exited, count=number + 1)
            assert count_starts(watched) == number + 1
        assert len(pids) == ROUNDS
        assert os.getpid() not in pids


@pytest.mark.parametrize("wait_for_ready", [None, False])
@pytest.mark.parametrize("connect", CONNECTORS)
async def test_a_call_starts_it_and_it_stops_without_calls(
    short_dir: Path, connect: Connector, wait_for_ready: bool | None
) -> None:
    options = {} if wait_for_ready is None else {"wait_for_ready": wait_for_ready}
    async with run_mesh(echo_table(idle_timeout=0.1), short_dir) as watched:
        async with connect(watched) as channel:
            for number in range(ROUNDS):
                # On a busy machine it may be idle before the call reaches it.
                await echo(channel, **options)
                assert count_starts(watched) > number
                await wait_for_states(watched, "idle")
            count = count_starts(watched)
            await trio.sleep(0.5)  # The channel does not connect again by itself.
            assert (count_starts(watched), states(watched)) == (count, ["idle"])
        assert not watched.find_events(events.Stopped, was_killed=True)


async def test_what_makes_no_call_does_not_start_it(short_dir: Path) -> None:
    async with run_mesh(echo_table(), short_dir) as watched:
        async with connect_in_process(watched) as local, connect_remotely(watched) as remote:
            await watched.resolve("plugin.echo")
            listed = await trio.to_thread.run_sync(
                partial(run_meshtrio, "services", "--mesh-socket", str(watched.mesh.socket))
            )
            assert listed.returncode == 0, listed.stderr
            assert "started on demand" in listed.stdout
            assert not await local.is_reachable()
            assert not await remote.is_reachable()
            assert states(watched) == ["idle"]
            await echo(remote)
            assert count_starts(watched) == 1


async def test_the_gateway_starts_it_for_the_services_of_its_config(short_dir: Path) -> None:
    table = echo_table(idle_timeout=0.1, services=["echo.v1.EchoService"])
    async with (
        run_mesh(table, short_dir) as watched,
        connect_to(f"unix:{watched.mesh.socket}") as channel,
    ):
        for number in range(ROUNDS):
            await echo(channel)
            assert count_starts(watched) > number
            await wait_for_states(watched, "idle")


async def test_its_health_is_serving_while_it_is_idle(short_dir: Path) -> None:
    """Or clients that look at it, such as load balancers, would never call it."""
    async with (
        run_mesh(echo_table(), short_dir) as watched,
        connect_to(f"unix:{watched.mesh.socket}") as channel,
    ):
        await wait_for_states(watched, "idle")
        assert await check_health(channel, "plugin.echo") == "SERVING"
        assert (states(watched), count_starts(watched)) == (["idle"], 0)
        await watched.mesh.stop("echo")
        assert await check_health(channel, "plugin.echo") == "NOT_SERVING"


async def check_health(channel: Channel, service: str) -> str:
    descriptor = health.DESCRIPTOR.services_by_name["Health"]
    request = health.HealthCheckRequest(service=service)
    reply = await DynamicStub(channel, descriptor).Check(request)
    return str(health.HealthCheckResponse.ServingStatus.Name(reply.status))


async def test_a_stream_keeps_it_running(short_dir: Path) -> None:
    async with (
        run_mesh(echo_table(idle_timeout=1.0), short_dir) as watched,
        connect_remotely(watched) as channel,
    ):
        await channel.stub(EchoServiceStub).Slow(SlowRequest(message="x", seconds=3.0))
        assert not watched.find_events(events.Stopping)
        await watched.wait_for_event(events.Stopped)


async def test_no_call_is_lost_while_it_stops_and_starts(short_dir: Path) -> None:
    async with (
        run_mesh(echo_table(idle_timeout=0.1, start="fork-on-demand"), short_dir) as watched,
        connect_remotely(watched) as channel,
    ):
        for number in range(60):
            await echo(channel)
            await trio.sleep(0.08 + number % 12 * 0.012)  # around the time at which it is stopped
        assert count_starts(watched) > 1


async def test_connections_start_another_program_and_it_stops_without_any(
    short_dir: Path,
) -> None:
    async with run_mesh(raw_table(idle_timeout=0.1), short_dir) as watched:
        pids = set()
        for number in range(3):
            await wait_for_states(watched, "idle")
            await wait_until_held(watched)
            pids.add(await ask_who(address_of(watched)))
            assert count_starts(watched) == number + 1
        assert len(pids) == 3


async def test_an_open_connection_keeps_another_program_running(short_dir: Path) -> None:
    table = raw_table(idle_timeout=0.1, ready="started")
    async with run_mesh(table, short_dir) as watched:
        await wait_until_held(watched)
        with await connect_socket(raw_address(short_dir)):
            await watched.wait_for_event(events.Ready)
            await trio.sleep(3)  # more than two checks
            assert states(watched) == ["ready"]
        await wait_for_states(watched, "idle")


def test_a_call_that_does_not_wait_fails_if_the_mesh_is_gone(short_dir: Path) -> None:
    with serve_mesh(short_dir, echo_table()) as served:

        async def run() -> None:
            async with mesh.connect("plugin.echo", mesh_socket=served.socket) as channel:
                served.process.kill()
                served.process.wait(60)
                with trio.fail_after(60), pytest.raises(purerpc.UnavailableError):
                    await echo(channel, wait_for_ready=False)

        wait_until(lambda: is_idle(served.socket))
        trio.run(run)


# -- operations ---


async def test_operations_on_idle_instances(short_dir: Path) -> None:
    async with run_mesh(echo_table(), short_dir) as watched:
        running = watched.mesh
        await running.scale("echo", 3)
        assert states(watched) == ["idle"] * 3
        await running.scale("echo", 1)
        await running.stop("echo")
        assert states(watched) == ["stopped"]
        with pytest.raises(FileNotFoundError):
            await ask_who(address_of(watched))
        await running.start("echo")
        assert (states(watched), count_starts(watched)) == (["ready"], 1)
        await running.restart("echo")
        assert (states(watched), count_starts(watched)) == (["ready"], 2)


async def test_restart_starts_an_idle_instance(short_dir: Path) -> None:
    async with run_mesh(echo_table(), short_dir) as watched:
        await watched.mesh.restart("echo")
        assert (states(watched), count_starts(watched)) == (["ready"], 1)


async def test_a_reload_leaves_it_idle_and_the_next_process_is_new(short_dir: Path) -> None:
    async with run_mesh(echo_table(), short_dir) as watched:
        await wait_for_states(watched, "idle")
        before = address_of(watched)
        port = find_free_port()
        await reload(watched, short_dir, echo_table(listen=f"tcp://127.0.0.1:{port}"))
        assert (states(watched), count_starts(watched)) == (["idle"], 0)
        async with connect_remotely(watched) as channel:
            await echo(channel)
        with pytest.raises(OSError):  # noqa: PT011 - no such file, or refused
            await connect_socket(before)
        await reload(watched, short_dir, echo_table(start="exec"))
        await wait_for_states(watched, "ready")


async def test_a_reload_to_exec_starts_it(short_dir: Path) -> None:
    async with run_mesh(echo_table(), short_dir) as watched:
        await wait_for_states(watched, "idle")
        await reload(watched, short_dir, echo_table(start="exec"))
        await wait_for_states(watched, "ready")
        assert not (await watched.resolve("plugin.echo")).on_demand


async def reload(watched: RecordedMesh, folder: Path, text: str) -> None:
    (folder / "mesh.toml").write_text(text)
    config = load(folder / "mesh.toml")
    await watched.mesh.reload(attrs.evolve(config, runtime_dir=folder / "run"))


async def test_what_depends_on_it_is_started_while_it_is_idle(short_dir: Path) -> None:
    other = plugin_table("other", "sleeping_echo.py", depends_on=["echo"])
    async with run_mesh(echo_table() + other, short_dir) as watched:
        await wait_for_states(watched, "idle", "ready")


@pytest.mark.parametrize("connect", CONNECTORS[:2])
async def test_calls_that_do_not_wait_fail_while_what_it_depends_on_is_stopped(
    short_dir: Path, connect: Connector
) -> None:
    other = plugin_table("other", "sleeping_echo.py")
    table = echo_table(depends_on=["other"]) + other
    async with run_mesh(table, short_dir) as watched, connect(watched) as channel:
        await watched.mesh.stop("other")
        for _ in range(2):
            with trio.fail_after(60), pytest.raises(purerpc.UnavailableError):
                await echo(channel, wait_for_ready=False)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(echo, channel)
            await watched.mesh.start("other")


# -- failures ---


async def test_crashes_before_it_is_ready_are_restarted_with_backoff(short_dir: Path) -> None:
    table = plugin_table(
        *("p", "-c", "raise SystemExit(3)"),
        start="on-demand",
        listen_fds=True,
        backoff={"initial": 0.2, "jitter": 0.0},
    )
    async with run_mesh(table, short_dir) as watched:
        await wait_until_held(watched)
        with await connect_socket(address_of(watched)):
            await watched.wait_for_event(events.Starting, count=3)
        times = [event.time for event in watched.find_events(events.Starting)]
        assert times[1] - times[0] >= 0.2
        assert times[2] - times[1] >= 0.3


async def test_clean_exits_leave_it_idle_and_do_not_spin(short_dir: Path) -> None:
    """The connection is never accepted, so that there is demand all the time."""
    backoff = {"initial": 0.2, "multiplier": 2.0, "jitter": 0.0}
    table = plugin_table(
        *("p", "-c", "pass"),
        start="on-demand",
        listen_fds=True,
        ready="started",
        service=True,
        restart="on-failure",
        backoff=backoff,
    )
    async with run_mesh(table, short_dir) as watched:
        await wait_until_held(watched)
        with await connect_socket(address_of(watched)):
            await watched.wait_for_event(events.Starting, count=3)
        times = [event.time for event in watched.find_events(events.Starting)]
        assert times[1] - times[0] >= 0.2
        assert times[2] - times[1] >= 0.4


@pytest.mark.parametrize("connect", CONNECTORS[:2])
@pytest.mark.parametrize(("status", "restart"), [(0, "on-failure"), (3, "always")])
async def test_calls_that_do_not_wait_fail_if_it_ends_before_it_is_ready(
    short_dir: Path, connect: Connector, status: int, restart: str
) -> None:
    """And they fail with the reason. Others wait for the next start."""
    table = plugin_table(
        *("echo", "-c", f"raise SystemExit({status})"),
        start="on-demand",
        listen_fds=True,
        restart=restart,
        backoff={"initial": 1.0, "multiplier": 1.0, "jitter": 0.0},
    )
    async with run_mesh(table, short_dir) as watched, connect(watched) as channel:
        with trio.fail_after(60), pytest.raises(purerpc.UnavailableError, match=f"status {status}"):
            await echo(channel, wait_for_ready=False)
        count = count_starts(watched)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(echo, channel)
            await watched.wait_for_event(events.Starting, count=count + 1)
            nursery.cancel_scope.cancel()


async def test_a_failure_without_restart_is_final(short_dir: Path) -> None:
    table = plugin_table(
        *("p", "-c", "raise SystemExit(3)"),
        start="on-demand",
        listen_fds=True,
        restart="never",
    )
    async with run_mesh(table, short_dir) as watched:
        await wait_until_held(watched)
        with await connect_socket(address_of(watched)):
            await wait_for_states(watched, "failed")
        with pytest.raises(PluginFailedError, match="exited with status 3"):
            await watched.mesh.start("p")


async def test_a_port_in_use_is_reported_and_tried_again(short_dir: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        table = raw_table(listen=f"tcp://127.0.0.1:{port}")
        async with run_mesh(table, short_dir) as watched:
            event = await watched.wait_for_event(events.NotStarted)
            assert "in use" in str(getattr(event.event, "exit"))  # noqa: B009
            other.close()
            await watched.wait_for_event(events.Ready)
            assert await ask_who(f"tcp:127.0.0.1:{port}")


async def test_a_removed_socket_is_bound_again(short_dir: Path) -> None:
    async with run_mesh(raw_table(), short_dir) as watched:
        await wait_until_held(watched)
        path = Path(address_of(watched).removeprefix("unix:"))
        path.unlink()
        with trio.fail_after(30):
            while not path.exists():  # noqa: ASYNC110 - no event tells this
                await trio.sleep(0.01)
        assert await ask_who(f"unix:{path}")


# -- upgrades ---


def test_an_upgrade_keeps_it_idle(short_dir: Path) -> None:
    with serve_mesh(short_dir, echo_table(idle_timeout=0.2)) as served:
        path = served.runtime_dir / "echo-0.held.sock"
        wait_until(path.exists)
        inode = path.stat().st_ino

        async def call() -> None:
            async with mesh.connect("plugin.echo", mesh_socket=served.socket) as channel:
                await echo(channel)

        for _ in range(3):
            wait_until(lambda: is_idle(served.socket))
            upgrade(served)
            assert is_idle(served.socket)
            assert path.stat().st_ino == inode
            trio.run(call)


def is_idle(mesh_socket: Path) -> bool:
    done = run_meshtrio("ps", "--json", "--mesh-socket", str(mesh_socket))
    return '"idle"' in done.stdout
