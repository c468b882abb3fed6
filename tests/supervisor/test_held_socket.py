"""Listening sockets that the mesh holds: when they are bound, bound again, and closed."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from meshtrio.config import PluginConfig
from meshtrio.supervisor.held_socket import HeldSocket, HeldSockets
from tests.support.ports import find_free_port

PLUGIN = PluginConfig("p", ["program"], listen_fds=True)


def connect(address: str) -> socket.socket:
    if address.startswith("unix:"):
        sock = socket.socket(socket.AF_UNIX)
        try:
            sock.connect(address.removeprefix("unix:"))
        except OSError:
            sock.close()
            raise
        return sock
    return socket.create_connection(("127.0.0.1", int(address.rpartition(":")[2])))


@pytest.fixture(params=["unix", "tcp"])
def address(request: pytest.FixtureRequest, short_dir: Path) -> str:
    if request.param == "unix":
        return f"unix:{short_dir}/p-0.held.sock"
    return f"tcp:127.0.0.1:{find_free_port()}"


async def test_it_is_bound_once_and_connections_wait(address: str, short_dir: Path) -> None:
    held = HeldSocket(address)
    await held.open(short_dir, PLUGIN)
    inode = held.inode
    with connect(address):
        await held.open(short_dir, PLUGIN)
        assert held.inode == inode
        assert os.get_blocking(held.fileno)
        assert not os.get_inheritable(held.fileno)
    held.close()
    with pytest.raises((ConnectionRefusedError, FileNotFoundError)):
        connect(address)
    assert not list(short_dir.glob("*.sock"))


async def test_one_that_a_process_has_shut_down_is_bound_again(
    address: str, short_dir: Path
) -> None:
    held = HeldSocket(address)
    await held.open(short_dir, PLUGIN)
    with socket.socket(fileno=os.dup(held.fileno)) as copy:
        copy.shutdown(socket.SHUT_RDWR)
    with pytest.raises(ConnectionRefusedError):
        connect(address)
    await held.open(short_dir, PLUGIN)
    connect(address).close()
    held.close()


async def test_connections_that_wait_are_no_reason_to_bind_it_again(
    address: str, short_dir: Path
) -> None:
    held = HeldSocket(address)
    await held.open(short_dir, PLUGIN)
    inode = held.inode
    connect(address).close()
    with connect(address):
        await held.open(short_dir, PLUGIN)
    assert held.inode == inode
    held.close()


@pytest.mark.parametrize("is_replaced", [False, True])
async def test_a_file_that_is_gone_or_another_is_bound_again(
    short_dir: Path, is_replaced: bool
) -> None:
    path = short_dir / "p-0.held.sock"
    held = HeldSocket(f"unix:{path}")
    await held.open(short_dir, PLUGIN)
    path.unlink()
    with socket.socket(socket.AF_UNIX) as other:
        if is_replaced:
            other.bind(str(path))
            other.listen()
        await held.open(short_dir, PLUGIN)
        with connect(held.address):
            held_listener = socket.socket(fileno=os.dup(held.fileno))
            with held_listener:
                held_listener.accept()[0].close()
    held.close()


async def test_the_file_of_another_is_left_when_it_is_closed(short_dir: Path) -> None:
    path = short_dir / "p-0.held.sock"
    held = HeldSocket(f"unix:{path}")
    await held.open(short_dir, PLUGIN)
    path.unlink()
    path.write_text("not a socket")
    with pytest.raises(OSError, match="is not a socket"):
        await held.open(short_dir, PLUGIN)
    held.close()
    assert path.read_text() == "not a socket"


async def test_a_directory_that_was_replaced_does_not_keep_it_from_closing(
    short_dir: Path,
) -> None:
    folder = short_dir / "run"
    folder.mkdir()
    held = HeldSocket(f"unix:{folder}/p-0.held.sock")
    await held.open(folder, PLUGIN)
    number = held.fileno
    (folder / "p-0.held.sock").unlink()
    for each in folder.iterdir():
        each.unlink()
    folder.rmdir()
    folder.write_text("a file")
    held.close()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(number)


async def test_a_port_that_is_in_use_is_an_error_that_names_it(short_dir: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        address = f"tcp:127.0.0.1:{other.getsockname()[1]}"
        held = HeldSocket(address)
        with pytest.raises(OSError, match=f"{address}: cannot be bound: Address already in use"):
            await held.open(short_dir, PLUGIN)
    await held.open(short_dir, PLUGIN)
    held.close()


async def test_a_host_name_is_looked_up(short_dir: Path) -> None:
    address = f"tcp:localhost:{find_free_port()}"
    held = HeldSocket(address)
    await held.open(short_dir, PLUGIN)
    connect(address).close()
    held.close()
    with pytest.raises(socket.gaierror):
        await HeldSocket("tcp:no-such-host.invalid:1").open(short_dir, PLUGIN)


async def test_those_of_an_instance_are_closed_when_nothing_needs_them(short_dir: Path) -> None:
    sockets = HeldSockets()
    first, second = (sockets.get(f"unix:{short_dir}/{name}") for name in "ab")
    for held in (first, second):
        await held.open(short_dir, PLUGIN)
    with first.used_by_run():
        sockets.close_unused(is_down=False)
        assert (short_dir / "a").exists()
        # An address that it had before has the same socket.
        assert sockets.get(first.address) is first
        sockets.close_unused(is_down=False)
        assert not (short_dir / "b").exists()
        sockets.close_unused(is_down=True)
        assert (short_dir / "a").exists()
    sockets.close_unused(is_down=False)
    assert (short_dir / "a").exists()
    sockets.close_unused(is_down=True)
    assert not (short_dir / "a").exists()
    assert sockets.get(first.address) is not first


def test_it_is_shared_while_two_runs_have_it() -> None:
    held = HeldSocket("tcp:127.0.0.1:1")
    assert not held.is_used
    with held.used_by_run():
        assert held.is_used
        assert not held.is_shared
        with held.used_by_run():
            assert held.is_shared
        assert not held.is_shared
    assert not held.is_used
