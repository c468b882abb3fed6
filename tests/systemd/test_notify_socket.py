"""Values of NOTIFY_SOCKET that lead nowhere: nothing blocks or raises, and one line is logged."""

from __future__ import annotations

import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from meshtrio.systemd.notify_socket import NotifySocket


def refuse_connections(path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(str(path))


def listen_for_streams(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(path))


@pytest.mark.parametrize("name", ["run/notify", "", "@", "/", "vsock:2:1234", "/" + "x" * 107])
def test_a_name_that_is_none(name: str, caplog: pytest.LogCaptureFixture) -> None:
    notify = NotifySocket(name)
    for _ in range(3):
        assert not notify.send("READY=1")
    assert len(caplog.records) == 1
    assert "NOTIFY_SOCKET" in caplog.text
    notify.close()


@pytest.mark.parametrize(
    "make",
    [
        lambda path: None,
        lambda path: path.write_text("a regular file"),
        lambda path: path.mkdir(),
        lambda path: path.symlink_to(path),
        refuse_connections,
        listen_for_streams,
    ],
)
def test_a_path_where_no_service_manager_is(
    make: Callable[[Path], None], short_dir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = short_dir / "notify"
    make(path)
    notify = NotifySocket(str(path))
    for _ in range(3):
        assert not notify.send("READY=1")
    assert len(caplog.records) == 1
    assert f"cannot notify systemd at NOTIFY_SOCKET={path}: " in caplog.text
    notify.close()
    assert not notify.send("READY=1")


def test_a_full_socket_refuses_at_once(short_dir: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = str(short_dir / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.bind(path)
        notify = NotifySocket(path)
        sent = 0
        while notify.send(f"STATUS={sent}"):
            sent += 1
        for _ in range(3):
            assert not notify.send("STATUS=more")
        assert len(caplog.records) == 1
        assert receiver.recv(100) == b"STATUS=0"
        assert notify.send("STATUS=again")
        notify.close()


@pytest.mark.parametrize("is_abstract", [False, True])
def test_what_is_sent_arrives(short_dir: Path, is_abstract: bool) -> None:
    path = str(short_dir / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.bind(f"\0{path}" if is_abstract else path)
        notify = NotifySocket(f"@{path}" if is_abstract else path)
        assert notify.send("READY=1", "STATUS=x\udc80ü")
        assert receiver.recv(100).decode() == "READY=1\nSTATUS=x?ü"
        notify.close()


def test_without_one_nothing_is_sent_or_logged(caplog: pytest.LogCaptureFixture) -> None:
    notify = NotifySocket(None)
    assert not notify.is_open
    assert not notify.send("READY=1")
    assert not caplog.records
