"""Attributing processes and listening sockets to plugins."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import ip_address

import pytest

from meshtrio.supervisor.process.cleanup.process_tree import ProcessTree
from meshtrio.supervisor.process.proc.listening_sockets import (
    find_listeners,
    list_tcp_listeners,
    parse_proc_address,
)
from meshtrio.supervisor.server_identity import ServerVerifier, is_address_in_use
from meshtrio.transport.peer import peer_of
from tests.tools import find_debian_tool

OTHER = 12345
WORD = "0123456789abcdef"

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can act as somebody else")

LISTEN = """
import os, socket, sys
host, uid = sys.argv[1], int(sys.argv[2])
if uid:
    os.setuid(uid)
s = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
if ":" in host:
    s.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
s.bind((host, 0))
s.listen()
print(os.getpid(), s.getsockname()[1], flush=True)
sys.stdin.read()
"""


@contextmanager
def child(
    program: str, *arguments: str, env: dict[str, str] | None = None, prefix: tuple[str, ...] = ()
) -> Iterator[tuple[int, list[int]]]:
    """Run a session leader for the block; yield it and the numbers that it writes."""
    pipe = subprocess.PIPE
    command = [*prefix, sys.executable, "-S", "-c", program, *arguments]
    with subprocess.Popen(
        command, stdin=pipe, stdout=pipe, text=True, start_new_session=True, env=env
    ) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        try:
            yield process.pid, [int(word) for word in process.stdout.readline().split()]
        finally:
            process.stdin.close()
            process.kill()


STARTED = """
import os, subprocess, sys, time
how, leaf = sys.argv[1], "import os, sys; print(os.getpid(), flush=True); sys.stdin.read()"
env = {} if "clear" in how else dict(os.environ)
session = "session" in how
if "orphan" in how:
    # Its parent exits, so that it becomes a child of init or of a subreaper.
    middle = "import subprocess, sys; subprocess.Popen([sys.executable, '-S', '-c', sys.argv[1]])"
    subprocess.run([sys.executable, "-S", "-c", middle, leaf], start_new_session=True, env=env)
else:
    subprocess.Popen([sys.executable, "-S", "-c", leaf], start_new_session=session, env=env)
time.sleep(3600)
"""


@pytest.mark.parametrize("how", ["group", "session", "clear session", "orphan"])
def test_what_a_plugin_has_started_is_its_own(how: str) -> None:
    env = {**os.environ, "MESH_LAUNCH_ID": WORD}
    with child(STARTED, how, env=env) as (leader, (pid,)):
        owner = ProcessTree(leader, WORD)
        assert owner.contains(pid)
        assert owner.contains(leader)
        assert owner.is_led(pid) == (how == "group")
        assert {leader, pid} <= set(owner.find_pids())
        assert not ProcessTree(leader, "fedcba9876543210").contains(os.getpid())


def test_what_others_have_started_is_not() -> None:
    with child(STARTED, "orphan", env={**os.environ, "MESH_LAUNCH_ID": WORD}) as (leader, (pid,)):
        with child(STARTED, "group", env={}) as (other, (started,)):
            owner = ProcessTree(other, "fedcba9876543210")
            for each in (leader, pid, os.getpid(), os.getppid(), 1, 0, -1, 2**22 + 1):
                assert not owner.contains(each)
            assert set(owner.find_pids()) == {other, started}


# -- listeners ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("listens", "connects"),
    [
        ("127.0.0.1", "127.0.0.1"),
        ("0.0.0.0", "127.0.0.1"),
        ("::", "127.0.0.1"),
        ("::", "::1"),
        ("::1", "::1"),
        ("::ffff:127.0.0.1", "127.0.0.1"),
    ],
)
def test_a_listener_is_found_by_a_connection_to_it(listens: str, connects: str) -> None:
    with child(LISTEN, listens, "0") as (pid, (_, port)):
        with socket.create_connection((connects, port)) as sock:
            host, found_port = sock.getpeername()[:2]
        (found,) = find_listeners(list_tcp_listeners(), host, found_port)
        assert (found.port, found.uid) == (port, os.getuid())
        assert ProcessTree(pid, WORD).holds_sockets([found.inode]) is True
        assert ProcessTree(os.getpid(), WORD).holds_sockets([found.inode, 1]) is False


def test_a_listener_on_the_address_itself_comes_first() -> None:
    text = {
        "127.0.0.1": b"0100007F",
        "0.0.0.0": b"00000000",
        "::1": b"00000000000000000000000001000000",
        "::": b"0" * 32,
    }
    if sys.byteorder == "little":
        for host, entry in text.items():
            assert parse_proc_address(entry) == ip_address(host)
    assert parse_proc_address(b"0000000000000000FFFF00000100007F") == ip_address("127.0.0.1")


@as_root
def test_descriptors_that_may_not_be_seen_are_not_held_against_a_plugin() -> None:
    """A mesh that is not root, and a plugin that has changed its user (set-user-ID)."""
    with child(LISTEN, "127.0.0.1", str(OTHER)) as (leader, (_, port)):
        found = find_listeners(list_tcp_listeners(), "127.0.0.1", port)
        assert [each.uid for each in found] == [OTHER]
        pid = os.fork()
        if not pid:
            try:
                os.setuid(OTHER + 1)
                owner = ProcessTree(leader, WORD)
                server = ServerVerifier(
                    f"tcp:127.0.0.1:{port}", owner, frozenset({OTHER}), verify_process=True
                )
                other = ServerVerifier(
                    f"tcp:127.0.0.1:{port}", owner, frozenset({OTHER + 1}), verify_process=True
                )
                hidden = owner.holds_sockets([found[0].inode]) is None
                right = not server._check_sockets(found) and bool(other._check_sockets(found))
                os._exit(0 if hidden and right else 1)
            except BaseException:
                os._exit(2)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


@as_root
def test_a_plugin_may_listen_in_a_network_namespace_of_its_own() -> None:
    ip = find_debian_tool("ip")
    up = f"import subprocess; subprocess.run(['{ip}', 'link', 'set', 'lo', 'up'])\n"
    with child(up + LISTEN, "127.0.0.1", "0", prefix=("unshare", "--net")) as (pid, (_, port)):
        owner = ProcessTree(pid, WORD)
        server = ServerVerifier(f"tcp:127.0.0.1:{port}", owner, None, verify_process=True)
        assert find_listeners(list_tcp_listeners(), "127.0.0.1", port) == []
        found = server._find_listeners("127.0.0.1", port)
        assert len(found) == 1
        assert server._check_sockets(found) == ""
        # The listener on that address in our own namespace has the connection.
        with socket.create_server(("127.0.0.1", port)):
            assert server._check_sockets(server._find_listeners("127.0.0.1", port)) != ""


async def test_what_answers_already_is_found() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = f"tcp:127.0.0.1:{listener.getsockname()[1]}"
        assert await is_address_in_use(address)
    assert not await is_address_in_use(address)


async def test_a_socket_that_meets_itself_is_no_answer() -> None:
    async def connect(address: str) -> socket.socket:
        sock = socket.socket()
        sock.bind(("127.0.0.1", 0))
        sock.connect(sock.getsockname())
        return sock

    assert not await is_address_in_use("tcp:127.0.0.1:1", connect)


def test_peer_credentials_are_those_of_the_process_that_called_listen() -> None:
    """The verification of servers on Unix sockets relies on this."""
    with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as sock:
        listener.bind(f"\0meshtrio-{os.getpid()}")
        listener.listen()
        sock.connect(listener.getsockname())
        peer = peer_of(sock)
        assert (peer.pid, peer.uid) == (os.getpid(), os.geteuid())
