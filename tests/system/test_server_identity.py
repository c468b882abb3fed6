"""Who answers at a plugin's address: servers of others, put there in every way there is."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
import trio

from meshtrio.supervisor import events
from meshtrio.transport.dial import WrongServerError, dial
from tests.support.in_process_mesh import RecordedMesh, run_mesh
from tests.support.mesh_processes import PLUGINS_DIRECTORY, echo_plugin_table, plugin_table
from tests.support.ports import find_free_port

NOBODY = 65534
SYSTEM_PYTHON = Path("/usr/bin/python3")

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can run as somebody else")


def write_program(folder: Path, name: str, text: str) -> Path:
    """Write a program that needs only the standard library."""
    path = folder / name
    path.write_text(textwrap.dedent(text))
    path.chmod(0o755)
    return path


def contained_plugin_table(program: Path, *arguments: str, ready_timeout: int = 60) -> str:
    """A plugin that runs as `nobody`; by the system's Python, since that may be unable to read
    this user's."""
    if not SYSTEM_PYTHON.exists():
        pytest.skip(f"{SYSTEM_PYTHON} is not there")
    command = [str(SYSTEM_PYTHON), str(program), *arguments]
    return (
        f'[[plugin]]\nname = "p"\ncommand = {command!r}\ncwd = "/"\n'
        f"ready_timeout = {ready_timeout}\nbackoff = {{ initial = 0.01 }}\n"
        f'containment = {{ user = "{NOBODY}" }}\n'
    ).replace("'", '"')


@contextmanager
def listen_as_root(folder: Path) -> Iterator[tuple[Path, socket.socket]]:
    """Listen on a socket that only root may use; yields its path and the listener."""
    path = folder / "private" / "root.sock"
    path.parent.mkdir(mode=0o700)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        path.chmod(0o600)
        listener.listen()
        listener.setblocking(False)
        yield path, listener


def receive_from_all(listener: socket.socket) -> bytes:
    """Return what all clients that have connected to a listener have sent."""
    heard = b""
    while True:
        try:
            sock, _ = listener.accept()
        except BlockingIOError:
            return heard
        with sock:
            sock.setblocking(False)
            with suppress(BlockingIOError):
                heard += sock.recv(65536)


async def wait_for_rejection(watched: RecordedMesh) -> str:
    """Return why the server at the plugin's address is rejected, before the plugin is ready."""
    with trio.fail_after(120):
        while True:
            life = watched.mesh._supervisor.instances[0].active_run
            if (
                life is not None
                and life.supervision is not None
                and life.supervision.health.verifier._last_rejection[1]
            ):
                assert not watched.find_events(events.Ready)
                return life.supervision.health.verifier._last_rejection[1]
            await trio.sleep(0.01)


@as_root
async def test_a_link_to_roots_service_is_not_followed(short_dir: Path) -> None:
    short_dir.chmod(0o755)
    linking = """
        import os, sys, time
        os.symlink(sys.argv[1], os.environ["PLUGIN_SOCKET"])
        time.sleep(3600)
    """
    program = write_program(short_dir, "linking.py", linking)
    with listen_as_root(short_dir) as (path, listener):
        config = contained_plugin_table(program, str(path), ready_timeout=2)
        async with run_mesh(config, short_dir) as watched:
            await watched.wait_until(
                lambda: [
                    observed
                    for observed in watched.find_events(events.Exited)
                    if "is a symbolic link, which is not followed" in str(observed.event)
                ]
            )
            assert not watched.find_events(events.Ready)
        assert receive_from_all(listener) == b""
        # What it has left does not keep the next mesh from starting.
        async with run_mesh(echo_plugin_table(), short_dir) as watched:
            await watched.wait_for_event(events.Ready)


@as_root
async def test_links_that_are_swapped_for_sockets_lead_nowhere(short_dir: Path) -> None:
    """A race: what is looked at is now a socket of its own, now a link to root's."""
    short_dir.chmod(0o755)
    swapping = """
        import ctypes, os, socket, sys, threading
        here = os.environ["PLUGIN_SOCKET"]
        s = socket.socket(socket.AF_UNIX)
        s.bind(here)
        s.listen(1024)
        link = here + ".link"
        os.symlink(sys.argv[1], link)
        libc = ctypes.CDLL(None)
        def close():
            while True:
                s.accept()[0].close()
        threading.Thread(target=close, daemon=True).start()
        while True:
            libc.renameat2(-100, here.encode(), -100, link.encode(), 2)  # RENAME_EXCHANGE
    """
    program = write_program(short_dir, "swapping.py", swapping)
    with listen_as_root(short_dir) as (path, listener):
        config = contained_plugin_table(program, str(path), ready_timeout=2)
        async with run_mesh(config, short_dir) as watched:
            await watched.wait_for_event(events.Exited, count=3)
            assert not watched.find_events(events.Ready)
        assert receive_from_all(listener) == b""


SERVING = """
    import os, signal, socket, sys, threading
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
    here = os.environ["PLUGIN_SOCKET"]
    s = socket.socket(socket.AF_UNIX)
    s.bind(here)
    s.listen(1024)
    # SETTINGS, and HEADERS with :status 404, which is to be ready.
    answer = bytes.fromhex("000000040000000000" "000001010500000001" "8d")
    def serve():
        while True:
            sock, _ = s.accept()
            sock.recv(65536)
            sock.sendall(answer)
            sock.close()
    threading.Thread(target=serve, daemon=True).start()
    signal.sigwait([signal.SIGUSR1])
    os.symlink(sys.argv[1], here + ".link")
    os.rename(here + ".link", here)
    print("linked", flush=True)
    threading.Event().wait()
"""


@as_root
async def test_a_plugin_that_is_ready_and_then_links_to_roots_service_has_no_calls_passed_to_it(
    short_dir: Path,
) -> None:
    """By the time that it is noticed as by those who have been told of it before."""
    short_dir.chmod(0o755)
    program = write_program(short_dir, "serving.py", SERVING)
    with listen_as_root(short_dir) as (path, listener):
        async with run_mesh(contained_plugin_table(program, str(path)), short_dir) as watched:
            ready = (await watched.wait_for_event(events.Ready)).event
            assert isinstance(ready, events.Ready)
            endpoint = (await watched.resolve("plugin.p")).endpoints[0]
            assert endpoint.server_uid == NOBODY
            os.kill(ready.pid, signal.SIGUSR1)
            await watched.wait_for_line("linked")
            with pytest.raises(WrongServerError, match="symbolic link"):
                await dial(endpoint.address, None, endpoint.allowed_server_uids)
            unready = (await watched.wait_for_event(events.Unready)).event
            assert isinstance(unready, events.Unready)
            assert "is a symbolic link" in unready.reason
            # Started again, what it has left is out of its way.
            await watched.wait_for_event(events.Ready, count=2)
        assert receive_from_all(listener) == b""


@as_root
async def test_another_plugin_of_the_same_contained_user_is_noticed(short_dir: Path) -> None:
    """It may write to the other's folder, and is of the right user."""
    short_dir.chmod(0o755)
    program = write_program(short_dir, "serving.py", SERVING)
    taking = """
        import os, socket, threading
        here = os.environ["PLUGIN_SOCKET"]
        other = here.replace("/q", "/p")
        s = socket.socket(socket.AF_UNIX)
        s.bind(other + ".mine")
        s.listen(1024)
        os.rename(other + ".mine", other)
        threading.Event().wait()
    """
    thief = write_program(short_dir, "taking.py", taking)
    table = contained_plugin_table(thief).replace('name = "p"', 'name = "q"\ndepends_on = ["p"]')
    async with run_mesh(contained_plugin_table(program, "x") + table, short_dir) as watched:
        unready = (await watched.wait_for_event(events.Unready, plugin="p")).event
        assert isinstance(unready, events.Unready)
        assert "which is not one of its processes" in unready.reason


_SERVE = """
import os, sys
path, os.environ["PLUGIN_SOCKET"] = sys.argv[1], sys.argv[1] + ".new"
import trio
from meshtrio import plugin

async def main():
    async with trio.open_nursery() as nursery:
        await nursery.start(plugin.serve)
        os.rename(path + ".new", path)

trio.run(main)
"""


@contextmanager
def replace_server(path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run a healthy server of another program in place of what is at a path."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("PLUGIN_", "MESH_"))}
    command = [sys.executable, "-c", _SERVE, str(path)]
    with subprocess.Popen(command, env=environment, start_new_session=True) as process:
        try:
            yield process
        finally:
            process.kill()


async def test_a_server_that_takes_a_plugins_socket_gets_no_calls(short_dir: Path) -> None:
    async with run_mesh(echo_plugin_table(), short_dir) as watched:
        first = (await watched.wait_for_event(events.Ready)).event
        assert isinstance(first, events.Ready)
        path = watched.mesh.instances()[0].socket
        with replace_server(path) as other:
            unready = (await watched.wait_for_event(events.Unready)).event
            assert isinstance(unready, events.Unready)
            assert f"is served by pid {other.pid} (" in unready.reason
            assert "not one of its processes" in unready.reason
            service = await watched.resolve("plugin.echo")
            assert service.endpoints == ()
            assert "not one of its processes" in service.exit_infos[-1].reason
            # It is started again, and has its socket back.
            await watched.wait_for_event(events.Ready, count=2)
            assert watched.mesh.instances()[0].socket == path
            assert other.poll() is None


async def test_a_plugin_may_bind_its_socket_again_by_a_process_of_another_session(
    short_dir: Path,
) -> None:
    program = """
        import os, signal, socket, subprocess, sys, time
        path = os.environ["PLUGIN_SOCKET"]
        serve = "from meshtrio import plugin; plugin.run()"

        def accepts(path):
            # The file is there before the server listens on it, and sets its mode.
            with socket.socket(socket.AF_UNIX) as client:
                return client.connect_ex(path) == 0

        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
        before = None
        while True:
            # As a daemon has it. What replaces the mark in its environment does not matter.
            child = subprocess.Popen(
                [sys.executable, "-c", serve], start_new_session=True,
                env={**os.environ, "MESH_LAUNCH_ID": "x", "PLUGIN_SOCKET": path + ".new"},
            )
            while not accepts(path + ".new"):
                time.sleep(0.01)
            os.rename(path + ".new", path)
            if before is not None:
                before.kill()
                before.wait()
            print("served by", child.pid, flush=True)
            signal.sigwait([signal.SIGUSR1])
            before = child
    """
    path = write_program(short_dir, "binding.py", program)
    config = plugin_table("p", str(path), cwd=short_dir, ready_timeout=60.0)
    async with run_mesh(config, short_dir) as watched:
        await watched.wait_for_event(events.Ready)
        endpoint = (await watched.resolve("plugin.p")).endpoints[0]
        assert endpoint.server_uid == os.geteuid()
        os.kill(endpoint.pid, signal.SIGUSR1)
        lines = await watched.wait_until(
            lambda: [
                o for o in watched.find_events(events.LineWritten) if "served by" in str(o.event)
            ][1:]
        )
        assert isinstance(lines.event, events.LineWritten)
        second = int(lines.event.line.split()[-1])
        life = watched.mesh._supervisor.instances[0].active_run
        assert life is not None
        assert life.supervision is not None
        with trio.fail_after(60):
            while life.supervision.health.verifier._verified != second:  # noqa: ASYNC110 - nothing reports it
                await trio.sleep(0.01)
        assert not watched.find_events(events.Unready)
        assert not watched.find_events(events.Exited)


# -- on TCP ------------------------------------------------------------------------------------


@pytest.fixture
def port() -> int:
    return find_free_port()


async def test_a_port_that_answers_already_is_not_waited_for(short_dir: Path, port: int) -> None:
    config = echo_plugin_table(listen=f"tcp://127.0.0.1:{port}", backoff={"initial": 0.01})
    with socket.create_server(("127.0.0.1", port)) as other:
        async with run_mesh(config, short_dir) as watched:
            event = (await watched.wait_for_event(events.NotStarted, count=2)).event
            assert isinstance(event, events.NotStarted)
            reason = f"another program answers at tcp:127.0.0.1:{port} already"
            assert reason in event.exit.reason
            assert not watched.find_events(events.Starting)
            other.close()
            await watched.wait_for_event(events.Ready)


SHARING = """
import os, socket, sys
sys.path.insert(0, {plugins!r})
import trio
from meshtrio.rpc.server import Server
from meshtrio.services.health import HealthServicer

async def main():
    host, _, port = {address!r}.rpartition(":")
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    listener.bind((host, int(port)))
    listener.listen()
    listener.setblocking(False)
    print("listening", flush=True)
    await Server(HealthServicer()).serve(listener)

trio.run(main)
"""


def make_port_sharing_program(port: int) -> str:
    """Return a program that serves on a port with SO_REUSEPORT."""
    return SHARING.format(plugins=str(PLUGINS_DIRECTORY), address=f"127.0.0.1:{port}")


@contextmanager
def run_program(program: str) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-c", program]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdout=pipe, text=True, start_new_session=True) as process:
        assert process.stdout is not None
        try:
            assert process.stdout.readline() == "listening\n"
            yield process
        finally:
            process.kill()


async def test_a_plugin_whose_port_another_answers_on_is_not_ready(
    short_dir: Path, port: int
) -> None:
    """The plugin itself never listens, and another program does once it has started."""
    config = plugin_table(
        "p",
        "-c",
        "print('up', flush=True); import time; time.sleep(3600)",
        listen=f"tcp://127.0.0.1:{port}",
        ready_timeout=200.0,
        restart="never",
    )
    async with run_mesh(config, short_dir) as watched:
        await watched.wait_for_line("up")
        with run_program(make_port_sharing_program(port)):
            reason = await wait_for_rejection(watched)
        assert f"another program (uid {os.geteuid()}) listens on its port" in reason
        assert not watched.find_events(events.Ready)


async def test_a_program_that_shares_a_plugins_port_is_noticed(short_dir: Path, port: int) -> None:
    """SO_REUSEPORT: the kernel would give it half of the connections."""
    path = write_program(short_dir, "sharing.py", make_port_sharing_program(port))
    config = plugin_table(
        "p",
        str(path),
        cwd=short_dir,
        listen=f"tcp://127.0.0.1:{port}",
        restart="never",
        ready_timeout=60.0,
        liveness={"interval": 0.2, "timeout": 60.0},
    )
    async with run_mesh(config, short_dir) as watched:
        await watched.wait_for_event(events.Ready)
        with run_program(make_port_sharing_program(port)):
            unready = (await watched.wait_for_event(events.Unready)).event
        assert isinstance(unready, events.Unready)
        assert "another program" in unready.reason
        assert (await watched.resolve("plugin.p")).endpoints == ()


async def test_a_port_that_a_child_in_another_session_listens_on_is_the_plugins(
    short_dir: Path, port: int
) -> None:
    serve = write_program(short_dir, "sharing.py", make_port_sharing_program(port))
    program = f"""
        import subprocess, sys, time
        subprocess.Popen([sys.executable, {str(serve)!r}], start_new_session=True)
        time.sleep(3600)
    """
    path = write_program(short_dir, "starting.py", program)
    config = plugin_table(
        "p", str(path), cwd=short_dir, listen=f"tcp://127.0.0.1:{port}", ready_timeout=60.0
    )
    async with run_mesh(config, short_dir) as watched:
        await watched.wait_for_event(events.Ready)
        assert not watched.find_events(events.Exited)


@pytest.mark.parametrize("verify", [True, False])
async def test_a_server_that_another_program_starts_is_accepted_if_the_config_says_so(
    verify: bool, short_dir: Path
) -> None:
    """As `docker run` does it."""
    waiting = "import os, time; print('at', os.environ['PLUGIN_SOCKET'], flush=True);"
    config = plugin_table(
        "p",
        "-c",
        waiting + "time.sleep(3600)",
        restart="never",
        ready_timeout=200.0,
        verify_server=verify,
    )
    async with run_mesh(config, short_dir) as watched:
        await watched.wait_for_line("at /")
        with replace_server(watched.mesh.instances()[0].socket) as other:
            if verify:
                assert f"is served by pid {other.pid} (" in await wait_for_rejection(watched)
            else:
                await watched.wait_for_event(events.Ready)
