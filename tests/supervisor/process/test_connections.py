"""The number of connections to a listening socket."""

from __future__ import annotations

import socket
from contextlib import ExitStack
from pathlib import Path

import pytest

from meshtrio.supervisor.process.proc.connections import count_connections


@pytest.mark.parametrize("family", [socket.AF_UNIX, socket.AF_INET, socket.AF_INET6])
def test_accepted_connections_are_counted(family: socket.AddressFamily, short_dir: Path) -> None:
    with ExitStack() as stack:
        listener = stack.enter_context(socket.socket(family))
        if family == socket.AF_UNIX:
            path = str(short_dir / "a.sock")
            listener.bind(path)
            target, address = path, f"unix:{path}"
        else:
            try:
                listener.bind(("127.0.0.1" if family == socket.AF_INET else "::1", 0))
            except OSError:
                pytest.skip("no IPv6")
            target = listener.getsockname()
            host = "127.0.0.1" if family == socket.AF_INET else "[::1]"
            address = f"tcp:{host}:{listener.getsockname()[1]}"
        listener.listen()
        assert count_connections(address) == 0
        accepted, clients = [], []
        for number in range(1, 4):
            client = stack.enter_context(socket.socket(family))
            client.connect(target)
            clients.append(client)
            accepted.append(stack.enter_context(listener.accept()[0]))
            assert count_connections(address) == number
        for unrelated in socket.socketpair():
            stack.enter_context(unrelated)
        assert count_connections(address) == 3
        clients.pop().close()
        assert count_connections(address) == 2
        for each in accepted:
            each.close()
        assert count_connections(address) == 0


def test_what_is_not_there_is_not_known(short_dir: Path) -> None:
    assert count_connections(f"unix:{short_dir}/absent.sock") is None
    assert count_connections("nonsense") is None
