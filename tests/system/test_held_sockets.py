"""Sockets that the mesh holds: no connection is refused while plugins are restarted."""

from __future__ import annotations

import os
import shutil
import signal
import socket
from pathlib import Path

import attrs
import pytest
import trio
from echo.v1.echo_grpc import EchoServiceStub
from echo.v1.echo_pb2 import EchoRequest, SlowRequest

from meshtrio import mesh
from meshtrio.config import StartMethod, load
from meshtrio.errors import PluginFailedError
from meshtrio.supervisor import events
from meshtrio.transport.dial import connect_socket
from tests.held_sockets.connects import Restart, held_echo_plugin, measure_connects
from tests.support.in_process_mesh import RecordedMesh, run_mesh
from tests.support.mesh_processes import (
    PLUGINS_DIRECTORY,
    echo_plugin_table,
    plugin_table,
    serve_mesh,
)
from tests.support.ports import find_free_port

NOBODY = 65534
SYSTEM_PYTHON = Path("/usr/bin/python3")
QUICKLY = {"initial": 0.01, "maximum": 0.01}


def held_table(*arguments: str, **settings: object) -> str:
    """A plugin of the standard library that serves on the socket that it inherits."""
    program = ("held_socket_server.py", *arguments)
    return plugin_table("p", *program, **{"listen_fds": True, "backoff": QUICKLY, **settings})


def listen_address(is_tcp: bool) -> dict[str, str]:
    return {"listen": f"tcp://127.0.0.1:{find_free_port()}"} if is_tcp else {}


def address_of(watched: RecordedMesh) -> str:
    (status,) = watched.mesh.instances()
    config = watched.mesh._supervisor.config.plugins[0]
    return config.listen or f"unix:{status.socket}"


def pid_of(watched: RecordedMesh) -> int:
    (status,) = watched.mesh.instances()
    assert status.pid is not None
    return status.pid


async def ask_who(address: str) -> int:
    """Return the pid of the process that accepts a connection."""
    with await connect_socket(address) as sock:
        stream = trio.SocketStream(trio.socket.from_stdlib_socket(sock))
        await stream.send_all(b"who")
        return int(b"".join([part async for part in stream]))


def read_variables(pid: int) -> dict[str, str]:
    entries = Path(f"/proc/{pid}/environ").read_text().split("\0")
    return dict(entry.split("=", 1) for entry in entries if entry.startswith("LISTEN_"))


@pytest.mark.parametrize("is_tcp", [False, True])
@pytest.mark.parametrize("restart", Restart)
async def test_no_connection_is_refused_and_each_call_is_answered(
    short_dir: Path, restart: Restart, is_tcp: bool
) -> None:
    listen = listen_address(is_tcp).get("listen")
    plugin = held_echo_plugin(start=StartMethod.FORK, listen=listen)
    counts = await measure_connects(short_dir, restart, plugin, connects=400, restarts=4)
    assert (counts.refused, len(counts.pids)) == (0, 5)
    assert counts.answered >= 400
    if restart is Restart.ROLLING:
        assert counts.cut == 0


@pytest.mark.parametrize("is_tcp", [False, True])
async def test_callers_of_the_mesh_lose_no_call_and_no_stream_while_it_is_replaced(
    short_dir: Path, is_tcp: bool
) -> None:
    config = plugin_table(
        "echo", "sleeping_echo.py", start="fork", listen_fds=True, **listen_address(is_tcp)
    )
    async with run_mesh(config, short_dir) as watched:
        await watched.wait_for_event(events.Ready)
        async with mesh.connect("plugin.echo", mesh_socket=watched.mesh.socket) as channel:
            stub, calls = channel.stub(EchoServiceStub), 0
            stopping = trio.Event()

            async def call_repeatedly() -> None:
                nonlocal calls
                while not stopping.is_set():
                    await stub.Echo(EchoRequest(message="x"))
                    calls += 1

            async def call_slowly() -> None:
                reply = await stub.Slow(SlowRequest(message="slow", seconds=0.5))
                assert reply.message == "slow"

            async with trio.open_nursery() as nursery:
                for _ in range(4):
                    nursery.start_soon(call_repeatedly)
                pids = {pid_of(watched)}
                for _ in range(4):
                    nursery.start_soon(call_slowly)
                    before = calls
                    await watched.mesh.restart("echo")
                    pids.add(pid_of(watched))
                    while calls < before + 20:  # of the new process, too
                        await trio.testing.wait_all_tasks_blocked(0.01)
                stopping.set()
            assert len(pids) == 5
            (endpoint,) = (await watched.resolve("plugin.echo")).endpoints
            assert endpoint.server_uid == (None if is_tcp else os.geteuid())


@pytest.mark.parametrize("start", ["exec", "fork"])
@pytest.mark.parametrize("is_tcp", [False, True])
async def test_each_process_has_the_socket_as_sd_listen_fds_expects_it(
    short_dir: Path, is_tcp: bool, start: str
) -> None:
    config = held_table("serve", start=start, **listen_address(is_tcp))
    async with run_mesh(config, short_dir) as watched:
        await watched.wait_for_event(events.Ready)
        sockets = set()
        for number in range(3):
            pid = pid_of(watched)
            expected = {"LISTEN_PID": str(pid), "LISTEN_FDS": "1", "LISTEN_FDNAMES": "p"}
            assert read_variables(pid) == expected
            assert await ask_who(address_of(watched)) == pid
            (status,) = watched.mesh.instances()
            assert status.start is StartMethod(start)
            sockets.add(os.readlink(f"/proc/{pid}/fd/3"))
            if number == 0:
                await watched.mesh.restart("p")
            else:
                os.kill(pid, signal.SIGKILL)
                await watched.wait_for_event(events.Ready, count=number + 2)
        assert len(sockets) == 1


async def test_connections_wait_for_the_next_process_of_one_that_has_failed(
    short_dir: Path,
) -> None:
    config = held_table("serve", backoff={"initial": 3600, "maximum": 3600})
    async with run_mesh(config, short_dir) as watched:
        await watched.wait_for_event(events.Ready)
        os.kill(pid_of(watched), signal.SIGKILL)
        await watched.wait_for_event(events.Restarting)
        async with trio.open_nursery() as nursery:
            answers: list[int] = []

            async def ask() -> None:
                answers.append(await ask_who(address_of(watched)))

            for _ in range(10):
                nursery.start_soon(ask)
            await trio.testing.wait_all_tasks_blocked(0.01)
            assert not answers
            await watched.mesh.start("p")
        assert set(answers) == {pid_of(watched)}


@pytest.mark.parametrize("is_tcp", [False, True])
async def test_a_successor_is_not_ready_because_its_predecessor_answers(
    short_dir: Path, is_tcp: bool
) -> None:
    arguments = ("once", str(short_dir / "flag"))
    config = held_table(*arguments, ready_timeout=1.5, **listen_address(is_tcp))
    async with run_mesh(config, short_dir) as watched:
        await watched.wait_for_event(events.Ready)
        pid = pid_of(watched)
        with pytest.raises(PluginFailedError, match="it did not accept a connection"):
            await watched.mesh.restart("p")
        assert len(watched.find_events(events.Ready)) == 1
        assert (pid_of(watched), await ask_who(address_of(watched))) == (pid, pid)


async def test_connections_to_a_stuck_process_are_accepted_by_the_next(short_dir: Path) -> None:
    liveness = {"interval": 0.1, "timeout": 0.3, "failure_threshold": 2}
    async with run_mesh(held_table("serve", liveness=liveness), short_dir) as watched:
        await watched.wait_for_event(events.Ready)
        pid = pid_of(watched)
        os.kill(pid, signal.SIGSTOP)
        while "\nState:\tT" not in Path(f"/proc/{pid}/status").read_text():
            await trio.testing.wait_all_tasks_blocked(0.001)
        assert await ask_who(address_of(watched)) != pid
        exited = (await watched.wait_for_event(events.Exited)).event
        assert "it did not accept a connection within 0.3 s" in str(exited)


@pytest.mark.parametrize("is_tcp", [False, True])
async def test_health_checks_go_on_while_a_process_is_replaced(
    short_dir: Path, is_tcp: bool
) -> None:
    """Also if SO_PEERCRED is that of one of the two processes, since they call listen(2)."""
    liveness = {"interval": 0.05, "failure_threshold": 1}
    config = held_table("relisten", liveness=liveness, **listen_address(is_tcp))
    async with run_mesh(config, short_dir) as watched:
        await watched.wait_for_event(events.Ready)
        for _ in range(3):
            await watched.mesh.restart("p")
            with trio.move_on_after(0.3):
                await watched.wait_for_event(events.Exited)
        assert len(watched.find_events(events.Ready)) == 4
        assert not watched.find_events(events.Unready)
        assert not watched.find_events(events.CheckFailed)


async def test_a_reload_may_change_the_address(short_dir: Path) -> None:
    ports = [find_free_port(), find_free_port()]
    configs = [held_table("serve", listen=f"tcp://127.0.0.1:{port}") for port in ports]
    async with run_mesh(configs[0], short_dir) as watched:
        await watched.wait_for_event(events.Ready)
        (short_dir / "mesh.toml").write_text(configs[1])
        changed = load(short_dir / "mesh.toml")
        await watched.mesh.reload(attrs.evolve(changed, runtime_dir=short_dir / "run"))
        assert await ask_who(f"tcp:127.0.0.1:{ports[1]}") == pid_of(watched)
        with pytest.raises(ConnectionRefusedError):
            await connect_socket(f"tcp:127.0.0.1:{ports[0]}")


async def test_a_port_that_is_in_use_is_reported_and_tried_again(short_dir: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        address = f"tcp:127.0.0.1:{other.getsockname()[1]}"
        config = held_table("serve", listen=address)
        async with run_mesh(config, short_dir) as watched:
            event = (await watched.wait_for_event(events.NotStarted)).event
            assert f"{address}: cannot be bound: Address already in use" in str(event)
            other.close()
            await watched.wait_for_event(events.Ready)


async def test_a_program_that_does_not_use_its_socket_is_not_ready(short_dir: Path) -> None:
    config = held_table("ignore", ready_timeout=0.5)
    async with run_mesh(config, short_dir) as watched:
        exited = (await watched.wait_for_event(events.Exited)).event
    assert "was not ready within 0.5 s: it did not accept a connection" in str(exited)


@pytest.mark.parametrize("is_tcp", [False, True])
async def test_a_plugin_that_is_stopped_has_no_socket(short_dir: Path, is_tcp: bool) -> None:
    async with run_mesh(held_table("serve", **listen_address(is_tcp)), short_dir) as watched:
        await watched.wait_for_event(events.Ready)
        address = address_of(watched)
        await watched.mesh.stop("p")
        with pytest.raises((ConnectionRefusedError, FileNotFoundError)):
            await connect_socket(address)
        await watched.mesh.start("p")
        assert await ask_who(address) == pid_of(watched)
    assert not list((short_dir / "run").glob("p-*.sock"))


async def test_one_that_gives_up_has_no_socket(short_dir: Path) -> None:
    config = held_table("serve", restart="never")
    async with run_mesh(config, short_dir) as watched:
        await watched.wait_for_event(events.Ready)
        os.kill(pid_of(watched), signal.SIGKILL)
        await watched.wait_for_event(events.GaveUp)
        while list((short_dir / "run").glob("p-*.sock")):
            await trio.testing.wait_all_tasks_blocked(0.01)


async def test_a_socket_whose_file_was_removed_is_bound_again(short_dir: Path) -> None:
    async with run_mesh(held_table("serve"), short_dir) as watched:
        await watched.wait_for_event(events.Ready)
        Path(address_of(watched).removeprefix("unix:")).unlink()
        renewing = (await watched.wait_for_event(events.Renewing)).event
        assert "was removed" in str(renewing)
        await watched.wait_for_event(events.Stopped)
        assert await ask_who(address_of(watched)) == pid_of(watched)


async def test_listen_fds_may_be_changed_by_a_reload(short_dir: Path) -> None:
    config = echo_plugin_table(listen_fds=True)
    async with run_mesh(config, short_dir) as watched:
        await watched.wait_for_event(events.Ready)
        for is_held in (False, True, False):
            (short_dir / "mesh.toml").write_text(echo_plugin_table(listen_fds=is_held))
            changed = load(short_dir / "mesh.toml")
            await watched.mesh.reload(attrs.evolve(changed, runtime_dir=short_dir / "run"))
            assert bool(read_variables(pid_of(watched))) is is_held
            async with watched.mesh.connect("plugin.echo") as channel:
                stub = channel.stub(EchoServiceStub)
                assert (await stub.Echo(EchoRequest(message="x"))).message == "x"
            held = list((short_dir / "run").glob("*.held.sock"))
            assert len(held) == is_held
    assert not watched.find_events(events.CheckFailed)


async def test_each_instance_has_a_port_of_its_own_for_all_of_its_processes(
    short_dir: Path,
) -> None:
    port = find_free_port()
    listen = f"tcp://127.0.0.1:{port}"
    async with run_mesh(held_table("serve", listen=listen, instances=2), short_dir) as watched:
        await watched.wait_for_event(events.Ready, count=2)
        await watched.mesh.restart("p")
        pids = [each.pid for each in watched.mesh.instances()]
        assert pids == [await ask_who(f"tcp:127.0.0.1:{port + number}") for number in (0, 1)]


def test_the_next_mesh_binds_the_socket_of_one_that_was_killed(short_dir: Path) -> None:
    config = echo_plugin_table(listen_fds=True)
    with serve_mesh(short_dir, config, min_ready=1) as running:
        running.process.kill()
    assert (short_dir / "run" / "echo-0.held.sock").exists()
    with serve_mesh(short_dir, config, min_ready=1):
        pass


def find_free_privileged_port() -> int:
    for port in range(1023, 600, -1):
        with socket.socket() as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                sock.bind(("127.0.0.1", port))
            except OSError:
                continue
        return port
    raise AssertionError("no privileged port is free")


def contained_table(folder: Path, **settings: str) -> str:
    """The same plugin as `nobody`, run by the system's Python, which that user can read."""
    if not SYSTEM_PYTHON.exists():
        pytest.skip(f"{SYSTEM_PYTHON} is not there")
    folder.chmod(0o755)
    program = folder / "server.py"
    program.write_text((PLUGINS_DIRECTORY / "held_socket_server.py").read_text())
    lines = [f"{key} = {value}" for key, value in settings.items()]
    return "\n".join(
        [
            f'[[plugin]]\nname = "p"\ncommand = ["{SYSTEM_PYTHON}", "{program}", "serve"]',
            f'cwd = "/"\nlisten_fds = true\ncontainment = {{ user = "{NOBODY}" }}',
            *(*lines, ""),
        ]
    )


as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can start it as another user")


@as_root
@pytest.mark.skipif(shutil.which("setpriv") is None, reason="setpriv(1) is not there")
def test_a_successor_that_cannot_be_told_from_its_predecessor_does_not_become_ready(
    short_dir: Path,
) -> None:
    prefix = ["setpriv", "--bounding-set=-sys_ptrace"]
    config = contained_table(short_dir, ready_timeout="2")
    with serve_mesh(short_dir, config, min_ready=1, prefix=prefix) as running:
        (pid,) = running.plugin_pids()
        done = running.run_command("restart", "p")
        assert done.returncode == 1
        assert "the process that it replaces may have answered" in done.stderr
        assert "the active process keeps running" in done.stderr
        assert running.plugin_pids() == [pid]
        assert running.run_command("stop", "p").returncode == 0
        assert running.run_command("start", "p").returncode == 0


@as_root
@pytest.mark.parametrize("is_tcp", [False, True])
async def test_a_plugin_without_privileges_serves_where_only_root_may_listen(
    short_dir: Path, is_tcp: bool
) -> None:
    port = find_free_privileged_port()
    settings = {"listen": f'"tcp://127.0.0.1:{port}"'} if is_tcp else {}
    async with run_mesh(contained_table(short_dir, **settings), short_dir) as watched:
        await watched.wait_for_event(events.Ready)
        await watched.mesh.restart("p")
        pid = pid_of(watched)
        assert await ask_who(address_of(watched)) == pid
        assert f"Uid:\t{NOBODY}\t" in Path(f"/proc/{pid}/status").read_text()
        (endpoint,) = (await watched.resolve("plugin.p")).endpoints
        assert endpoint.server_uid == (None if is_tcp else 0)
