"""Which process run has accepted a connection to a held socket."""

from __future__ import annotations

import os
import socket
from collections.abc import AsyncIterator, Iterable, Iterator
from pathlib import Path

import pytest
import trio
import trio.testing

from meshtrio.config import PluginConfig
from meshtrio.supervisor import acceptance
from meshtrio.supervisor.acceptance import AcceptanceCheck, UnknownAcceptorError
from meshtrio.supervisor.held_socket import HeldSocket
from meshtrio.supervisor.process.cleanup.process_tree import ProcessTree
from meshtrio.supervisor.process.proc.accepted_sockets import find_accepted_inode
from tests.support.ports import find_free_port

PLUGIN = PluginConfig("p", ["program"], listen_fds=True)


class FakeTree(ProcessTree):
    """A run of which is known, or not, whether it holds a socket."""

    def __init__(self, is_held: bool | None) -> None:
        super().__init__(1, "")
        object.__setattr__(self, "is_held", is_held)

    def holds_sockets(self, inodes: Iterable[int]) -> bool | None:
        assert all(inodes)
        return self.is_held  # type: ignore[attr-defined, no-any-return]


@pytest.fixture(params=["unix", "tcp", "tcp6"])
async def held(request: pytest.FixtureRequest, short_dir: Path) -> AsyncIterator[HeldSocket]:
    host = "[::1]" if request.param == "tcp6" else "127.0.0.1"
    address = f"tcp:{host}:{find_free_port()}"
    if request.param == "unix":
        address = f"unix:{short_dir}/p-0.held.sock"
    held = HeldSocket(address)
    await held.open(short_dir, PLUGIN)
    yield held
    held.close()


@pytest.fixture
def listener(held: HeldSocket) -> Iterator[socket.socket]:
    with socket.socket(fileno=os.dup(held.fileno)) as listener:
        yield listener


def connect(listener: socket.socket) -> socket.socket:
    client = socket.socket(listener.family)
    client.connect(listener.getsockname())
    client.setblocking(False)
    return client


async def test_a_connection_has_an_inode_when_it_is_accepted(listener: socket.socket) -> None:
    with connect(listener) as client:
        assert find_accepted_inode(client) == 0
        accepted, _ = listener.accept()
        with accepted:
            assert find_accepted_inode(client) == os.fstat(accepted.fileno()).st_ino


async def test_it_waits_until_the_connection_is_accepted(
    held: HeldSocket, listener: socket.socket
) -> None:
    with connect(listener) as client:
        async with trio.open_nursery() as nursery:
            done: list[bool] = []

            async def wait() -> None:
                done.append(await AcceptanceCheck(FakeTree(None)).wait_accepted(client, held))

            nursery.start_soon(wait)
            with trio.move_on_after(0.2):
                await trio.sleep_forever()
            assert not done
            accepted, _ = listener.accept()
        assert done == [True]
        accepted.close()


@pytest.mark.parametrize("is_own", [True, False])
async def test_while_it_is_shared_the_process_counts(
    held: HeldSocket, listener: socket.socket, is_own: bool
) -> None:
    with connect(listener) as client, listener.accept()[0]:
        check = AcceptanceCheck(FakeTree(is_own))
        with held.used_by_run():
            assert await check.wait_accepted(client, held)
            with held.used_by_run():
                assert await check.wait_accepted(client, held) is is_own


async def test_a_run_that_has_answered_is_not_doubted_and_another_is(
    held: HeldSocket, listener: socket.socket
) -> None:
    with connect(listener) as client, listener.accept()[0]:
        known, unknown = (AcceptanceCheck(FakeTree(None)) for _ in range(2))
        with held.used_by_run():
            assert await known.wait_accepted(client, held)
            with held.used_by_run():
                assert await known.wait_accepted(client, held)
                with pytest.raises(UnknownAcceptorError, match="CAP_SYS_PTRACE"):
                    await unknown.wait_accepted(client, held)


async def test_without_sock_diag_it_does_not_wait(
    held: HeldSocket, listener: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(client: socket.socket) -> int:
        raise OSError("sock_diag is not there")

    monkeypatch.setattr(acceptance, "find_accepted_inode", fail)
    with connect(listener) as client:
        check = AcceptanceCheck(FakeTree(True))
        with held.used_by_run():
            assert await check.wait_accepted(client, held)
            with held.used_by_run():
                assert await check.wait_accepted(client, held)
                with pytest.raises(UnknownAcceptorError):
                    await AcceptanceCheck(FakeTree(True)).wait_accepted(client, held)


async def test_a_connection_that_is_closed_is_left_to_the_check(
    held: HeldSocket, listener: socket.socket
) -> None:
    with connect(listener) as client:
        listener.accept()[0].close()
        check = AcceptanceCheck(FakeTree(None))
        with held.used_by_run(), held.used_by_run():
            assert await check.wait_accepted(client, held)
            # That is no sign of the run.
            with connect(listener) as second, listener.accept()[0]:
                with pytest.raises(UnknownAcceptorError):
                    await check.wait_accepted(second, held)
