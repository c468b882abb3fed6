"""The lock file of a runtime dir, which also lists what the mesh has made there.

The first line is the pid of the mesh that holds the lock, or held it last. Each further line is
the path, relative to the folder, of a plugin's socket. The list is how the next mesh knows which
sockets a mesh that was killed has left: nothing is ever removed because of its name alone.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import stat
from pathlib import Path

NAME = "mesh.lock"

_HEADER = re.compile(rb"(\d{1,10}\n)?")
_SOCKET = re.compile(r"(?P<folder>[A-Za-z0-9_-]+\.d/)?[A-Za-z0-9_-]+-\d+(\.b)?\.sock")
_MAX_SIZE = 4 * 1024 * 1024


def is_lock(path: Path) -> bool:
    """Whether a file is the lock file of a mesh of this user."""
    try:
        lock = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return False
    try:
        status = os.fstat(lock)
        ours = stat.S_ISREG(status.st_mode) and status.st_uid == os.geteuid()
        return ours and _header(os.pread(lock, 64, 0)) is not None
    except OSError:
        return False
    finally:
        os.close(lock)


def _header(content: bytes) -> str | None:
    """The first line, "" for an empty file; None if it is not one of ours."""
    found = _HEADER.fullmatch(content[: content.find(b"\n") + 1 or None])
    return None if found is None else found[0].decode().strip()


def acquire(path: Path) -> int:
    """Open the lock file, making it if it is not there, and lock it.

    Returns:
        The descriptor that holds the lock.

    Raises:
        BlockingIOError: another process holds it.
        OSError: it cannot be made or locked; if it was not there before, it is not left behind.
    """
    flags = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW
    made = False
    try:
        lock = os.open(path, flags)
    except FileNotFoundError:
        lock, made = os.open(path, flags | os.O_CREAT, 0o600), True
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as exc:
        os.close(lock)
        if made and not isinstance(exc, BlockingIOError):
            with contextlib.suppress(OSError):
                os.unlink(path)
        raise
    return lock


def holder(path: Path) -> str:
    """The pid of the mesh that holds a lock, "unknown" if it has not been written yet."""
    try:
        with open(path, "rb") as file:
            return _header(file.read(64)) or "unknown"
    except OSError:
        return "unknown"


def begin(lock: int, sockets: list[str]) -> None:
    """Write this process's pid, and the sockets that are there already."""
    os.ftruncate(lock, 0)
    os.pwrite(lock, "".join(f"{line}\n" for line in (os.getpid(), *sockets)).encode(), 0)


def listed(lock: int) -> list[str]:
    """The relative paths of the sockets that the lock file lists."""
    lines = os.pread(lock, _MAX_SIZE, 0).decode("ascii", "replace").splitlines()[1:]
    return list(dict.fromkeys(line for line in lines if _SOCKET.fullmatch(line)))


def add(path: Path, socket: str) -> None:
    """List a socket that is about to be made. Does nothing if there is no lock file any more."""
    try:
        lock = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        return
    try:
        if socket not in listed(lock):
            os.write(lock, f"{socket}\n".encode())
    finally:
        os.close(lock)
