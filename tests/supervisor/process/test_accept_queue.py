"""Accept queues of listening sockets of every family."""

from __future__ import annotations

import socket
from contextlib import ExitStack
from pathlib import Path

import pytest

from meshtrio.supervisor.process.proc.listening_sockets import AcceptQueue, read_accept_queue


def test_of_a_unix_socket(short_dir: Path) -> None:
    path = short_dir / "s"
    with ExitStack() as stack:
        listener = stack.enter_context(socket.socket(socket.AF_UNIX))
        listener.bind(str(path))
        assert read_accept_queue(f"unix:{path}") is None
        listener.listen(5)
        assert read_accept_queue(f"unix:{path}") == AcceptQueue(0, 5)
        for _ in range(3):
            stack.enter_context(socket.socket(socket.AF_UNIX)).connect(str(path))
        assert read_accept_queue(f"unix:{path}") == AcceptQueue(3, 5)
        path.rename(short_dir / "renamed")
        assert read_accept_queue(f"unix:{path}") is None
        assert read_accept_queue(f"unix:{short_dir / 'renamed'}") == AcceptQueue(3, 5)


@pytest.mark.parametrize(("host", "family"), [("127.0.0.1", 2), ("::1", 10)])
def test_of_a_port(host: str, family: int) -> None:
    try:
        listener = socket.create_server((host, 0), family=family, backlog=7)
    except OSError as exc:
        pytest.skip(f"{host} cannot be listened on: {exc}")
    with listener:
        port = listener.getsockname()[1]
        with socket.create_connection((host, port)):
            shown = f"[{host}]" if ":" in host else host
            assert read_accept_queue(f"tcp:{shown}:{port}") == AcceptQueue(1, 7)
    assert read_accept_queue(f"tcp:{shown}:{port}") is None


def test_of_what_is_no_address() -> None:
    assert read_accept_queue("nonsense") is None
