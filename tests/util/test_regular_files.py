"""Reading files by path: what is not a regular file, or is too large, is rejected at once."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from meshtrio.config import load
from meshtrio.transport.tls import make_client_ssl_context, make_server_ssl_context
from meshtrio.util.descriptors import read_regular_file
from meshtrio.util.errors import ConfigError
from meshtrio.util.tls_config import ClientTlsConfig


def fifo(folder: Path) -> Path:
    path = folder / "fifo"
    os.mkfifo(path)
    return path


def link_to_a_fifo(folder: Path) -> Path:
    path = folder / "link"
    path.symlink_to(fifo(folder))
    return path


def unix_socket(folder: Path) -> Path:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(folder / "socket"))
    return folder / "socket"


def sparse(folder: Path) -> Path:
    path = folder / "sparse"
    with path.open("wb") as file:
        file.truncate(2**40)
    return path


ODD: dict[str, tuple[Callable[[Path], Path], str]] = {
    "FIFO": (fifo, "a FIFO, not a regular file"),
    "link": (link_to_a_fifo, "a FIFO, not a regular file"),
    "folder": (lambda folder: folder, "a folder, not a regular file"),
    "zero": (lambda _: Path("/dev/zero"), "a device, not a regular file"),
    "socket": (unix_socket, "a socket, not a regular file"),
    "sparse": (sparse, "larger than 1024 KiB"),
}


@pytest.fixture(params=ODD)
def odd(request: pytest.FixtureRequest, short_dir: Path) -> tuple[Path, str]:
    make, reason = ODD[request.param]
    return make(short_dir), reason


def test_a_config_is_a_regular_file(odd: tuple[Path, str]) -> None:
    path, reason = odd
    with pytest.raises(ConfigError, match=f"cannot be read: it is {reason}"):
        load(path)


@pytest.mark.parametrize("what", ["ca", "certificate", "key"])
def test_tls_files_of_a_client_are_regular_files(odd: tuple[Path, str], what: str) -> None:
    path, reason = odd
    with pytest.raises(OSError, match=f"{path} cannot be read: it is {reason}"):
        make_client_ssl_context(ClientTlsConfig(**{what: path}))


def test_tls_files_of_a_server_are_regular_files(odd: tuple[Path, str]) -> None:
    path, reason = odd
    with pytest.raises(OSError, match=f"{path} cannot be read: it is {reason}"):
        make_server_ssl_context(path, None, None)


def test_a_file_that_claims_to_be_empty_is_read_to_its_end() -> None:
    assert (
        read_regular_file("/proc/self/cmdline", 1024 * 1024)
        == Path("/proc/self/cmdline").read_bytes()
    )
    with pytest.raises(OSError, match="larger than 0 KiB"):
        read_regular_file("/proc/self/cmdline", 3)


def test_a_file_of_mistakes_is_not_read_to_its_end(tmp_path: Path) -> None:
    path = tmp_path / "mesh.toml"
    path.write_text("".join(f"key{number} = 1\n" for number in range(50_000)))
    with pytest.raises(ConfigError) as caught:
        load(path)
    assert len(caught.value.problems) == 101
    assert caught.value.problems[-1] == f"{path}: more than 100 errors; only these are shown"
