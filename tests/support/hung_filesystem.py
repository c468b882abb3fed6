"""A filesystem that does not answer, as one over a network whose server is gone (FUSE)."""

from __future__ import annotations

import ctypes
import os
import struct
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import attrs
import pytest

from tests import ROOT

_INIT, _GETATTR, _ROOT_NODE = 26, 3, 1
_MNT_DETACH = 2


def _serve(descriptor: int) -> None:
    """Answer how the filesystem is to be used and what its root is, and report the rest."""
    while True:
        request = os.read(descriptor, 1 << 17)
        _, operation, unique, node = struct.unpack_from("<IIQQ", request)
        if operation == _INIT:
            # Version 7.31, readahead and writes of 64 KiB, and no options.
            told = struct.pack("<4I2H2I2H8I", 7, 31, 1 << 16, 0, 0, 0, 1 << 16, *[0] * 11)
            _answer(descriptor, unique, told)
        elif operation == _GETATTR and node == _ROOT_NODE:
            attributes = struct.pack("<6Q10I", _ROOT_NODE, *[0] * 8, 0o40755, 2, 0, 0, 0, 4096, 0)
            _answer(descriptor, unique, struct.pack("<QII", 3600, 0, 0) + attributes)
        else:
            print("unanswered", flush=True)


def _answer(descriptor: int, unique: int, body: bytes) -> None:
    os.write(descriptor, struct.pack("<IiQ", 16 + len(body), 0, unique) + body)


def _main() -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    descriptor = os.open("/dev/fuse", os.O_RDWR)
    options = f"fd={descriptor},rootmode=40755,user_id=0,group_id=0,allow_other".encode()
    if libc.mount(b"hung", sys.argv[1].encode(), b"fuse.hung", 0, options):
        sys.exit(os.strerror(ctypes.get_errno()))
    print("mounted", flush=True)
    _serve(descriptor)


@attrs.frozen
class HungFilesystem:
    """One that is mounted."""

    folder: Path
    _reports: IO[bytes]

    def wait_for_request(self) -> None:
        """Block until a request waits for an answer: the first one, then each further one."""
        assert self._reports.readline() == b"unanswered\n"


@contextmanager
def mount_hung_filesystem(folder: Path) -> Iterator[HungFilesystem]:
    """Mount one during the block; all that waits for it fails afterwards."""
    if os.geteuid() != 0:
        pytest.skip("only root can mount a filesystem")
    point = folder / "hung"
    point.mkdir()
    with subprocess.Popen(
        [sys.executable, "-m", __name__, str(point)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as server:
        assert server.stdout is not None
        assert server.stderr is not None
        try:
            if not server.stdout.readline():
                pytest.skip(f"FUSE cannot be mounted here: {server.stderr.read().decode()}")
            yield HungFilesystem(point, server.stdout)
        finally:
            server.kill()
            ctypes.CDLL(None).umount2(str(point).encode(), _MNT_DETACH)


if __name__ == "__main__":
    _main()
