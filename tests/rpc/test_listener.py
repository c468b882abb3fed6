"""Binding a path: stale sockets, sockets in use, and other files."""

from __future__ import annotations

import os
import socket
import stat
from pathlib import Path

import pytest

from meshtrio.transport.listener import unix_listener
from meshtrio.util.errors import UsageError


def test_the_path_is_there_for_the_block_only(short_dir: Path) -> None:
    with unix_listener(short_dir / "s"):
        assert (short_dir / "s").is_socket()
    assert not (short_dir / "s").exists()


def test_a_socket_is_for_its_user_only(short_dir: Path) -> None:
    before = os.umask(0)
    try:
        with unix_listener(short_dir / "s"):
            assert stat.S_IMODE((short_dir / "s").stat().st_mode) == 0o700
    finally:
        os.umask(before)


def test_a_stale_socket_is_replaced(short_dir: Path) -> None:
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(short_dir / "s"))
    with unix_listener(short_dir / "s"):
        pass


def test_a_socket_in_use_is_left_alone(short_dir: Path) -> None:
    with unix_listener(short_dir / "s"):
        with (
            pytest.raises(UsageError, match="another process listens"),
            unix_listener(short_dir / "s"),
        ):
            pass
        assert (short_dir / "s").is_socket()


def test_a_file_is_left_alone(short_dir: Path) -> None:
    (short_dir / "s").write_text("precious")
    with pytest.raises(UsageError, match="not a socket"), unix_listener(short_dir / "s"):
        pass
    assert (short_dir / "s").read_text() == "precious"


@pytest.mark.parametrize("path", ["x" * 108, "/no/such/folder/s"])
def test_a_path_that_cannot_be_bound(path: str) -> None:
    with pytest.raises(UsageError), unix_listener(path):
        pass


def test_a_successors_socket_is_not_removed(short_dir: Path) -> None:
    with unix_listener(short_dir / "s"):
        (short_dir / "s").unlink()
        with socket.socket(socket.AF_UNIX) as successor:
            successor.bind(str(short_dir / "s"))
            inode = (short_dir / "s").stat().st_ino
    assert (short_dir / "s").stat().st_ino == inode
