"""The lock file of a runtime dir, which also lists what the mesh has made there.

The first line is the pid of the mesh that holds the lock, or held it last. Each further line is
the path, relative to the folder, of a plugin's socket, or a launch of a mesh: its random id, and
the users that its processes run as. The list is how the next mesh knows which sockets and processes
a mesh that was killed has left: nothing is ever removed or killed because of its name alone.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

NAME = "mesh.lock"

_HEADER = re.compile(rb"(\d{1,10}\n)?")
_SOCKET = re.compile(r"(?P<folder>[A-Za-z0-9_-]+\.d/)?[A-Za-z0-9_-]+-\d+(\.b)?\.sock")
_LAUNCH = re.compile(r"launch ([0-9a-f]{32}) (\d{1,10}(?:,\d{1,10})*)")
_MAX_LAUNCHES = 64
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


def begin(lock: int, lines: list[str]) -> None:
    """Write this process's pid, and what is to stay listed."""
    content = "".join(f"{line}\n" for line in (os.getpid(), *lines)).encode()
    # In this order, so that a mesh that is killed in between has not lost its launch.
    os.pwrite(lock, content, 0)
    os.ftruncate(lock, len(content))


def listed(lock: int) -> list[str]:
    """The relative paths of the sockets that the lock file lists."""
    return list(dict.fromkeys(line for line in _lines(lock) if _SOCKET.fullmatch(line)))


def launch_line(mesh_id: str, users: Iterable[int]) -> str:
    """The line that records a launch; the last line of a launch counts."""
    return f"launch {mesh_id} {','.join(map(str, sorted(users)))}"


def launches(lock: int) -> dict[str, list[int]]:
    """The users of the launches that the lock file lists, by their ids; at most the last 64.

    There are none in a file of another user, who could have processes killed by it.
    """
    if os.fstat(lock).st_uid != os.geteuid():
        return {}
    found = [match for line in _lines(lock) if (match := _LAUNCH.fullmatch(line))]
    by_id = {match[1]: [int(user) for user in match[2].split(",")] for match in found}
    return dict(list(by_id.items())[-_MAX_LAUNCHES:])


def _lines(lock: int) -> list[str]:
    return os.pread(lock, _MAX_SIZE, 0).decode("ascii", "replace").splitlines()[1:]


def add(path: Path, line: str) -> None:
    """List a socket that is about to be made, or a launch. Does nothing if there is no lock file
    any more."""
    with _opened(path) as lock:
        if lock is not None and line not in _lines(lock):
            os.write(lock, f"{line}\n".encode())


def remove_launch(path: Path, mesh_id: str) -> None:
    """Take out a launch of which nothing is left. To be called by the holder of the lock only."""
    with _opened(path) as lock:
        if lock is not None:
            begin(lock, [line for line in _lines(lock) if f"launch {mesh_id} " not in line])


@contextmanager
def _opened(path: Path) -> Iterator[int | None]:
    try:
        lock = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        yield None
        return
    try:
        os.lseek(lock, 0, os.SEEK_END)
        yield lock
    finally:
        os.close(lock)
