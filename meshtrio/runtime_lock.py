"""The lock file of a runtime dir, which also lists what the mesh has made there.

The first line is the pid of the mesh that holds the lock, or held it last. Each further line is
the path, relative to the folder, of a plugin's socket, or a launch of a mesh: its random id, and
the users that its processes run as. The list is how the next mesh knows which sockets and processes
a mesh that was killed has left: nothing is ever removed or killed because of its name alone.
"""

from __future__ import annotations

import contextlib
import errno
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
_SAFE = os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY
"""Neither follows a link nor waits for the other end of a FIFO."""


def is_lock(path: Path | str, dir_fd: int | None = None) -> bool:
    """Whether a file is the lock file of a mesh of this user.

    Args:
        path: of the file.
        dir_fd: the folder that `path` is relative to, here and below.
    """
    try:
        lock = os.open(path, os.O_RDONLY | _SAFE, dir_fd=dir_fd)
    except OSError:
        return False
    try:
        return not _why_not_ours(lock)
    except OSError:
        return False
    finally:
        os.close(lock)


def _why_not_ours(lock: int) -> str:
    """Why an open file is not the lock file of a mesh of this user, "" if it is one."""
    status = os.fstat(lock)
    if not stat.S_ISREG(status.st_mode):
        return "is not a regular file"
    if status.st_uid != os.geteuid():
        return f"belongs to uid {status.st_uid}"
    return "" if _header(os.pread(lock, 64, 0)) is not None else "was not written by a mesh"


def _header(content: bytes) -> str | None:
    """The first line, "" for an empty file; None if it is not one of ours."""
    found = _HEADER.fullmatch(content[: content.find(b"\n") + 1 or None])
    return None if found is None else found[0].decode().strip()


def acquire(path: Path | str, dir_fd: int | None = None) -> int:
    """Open the lock file, making it if it is not there, and lock it.

    Nothing is written to a file that is there already. If it has another name, too, it is replaced
    by a file with the same content, so that such a name neither has another file of ours
    overwritten nor keeps a mesh from starting.

    Returns:
        The descriptor that holds the lock.

    Raises:
        BlockingIOError: another process holds it.
        OSError: it cannot be made or locked, in which case it is not left behind if it was not
            there before; or it is no lock file of a mesh of this user, and is left as it is.
    """
    lock, made = _open(path, dir_fd)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        problem = _why_not_ours(lock)
        if problem:
            raise FileExistsError(errno.EEXIST, f"{NAME} {problem}")
        if not os.path.samestat(
            os.fstat(lock), os.stat(path, dir_fd=dir_fd, follow_symlinks=False)
        ):
            raise BlockingIOError(errno.EAGAIN, "another mesh has replaced it meanwhile")
        if os.fstat(lock).st_nlink > 1:
            return _replaced(lock, path, dir_fd)
    except OSError as exc:
        os.close(lock)
        if made and not isinstance(exc, BlockingIOError):
            with contextlib.suppress(OSError):
                os.unlink(path, dir_fd=dir_fd)
        raise
    return lock


def _open(path: Path | str, dir_fd: int | None) -> tuple[int, bool]:
    """Open the lock file, and tell whether it was made for that. Raises OSError."""
    flags = os.O_RDWR | _SAFE
    try:
        return os.open(path, flags, dir_fd=dir_fd), False
    except FileNotFoundError:
        with contextlib.suppress(FileExistsError):
            made = os.open(path, flags | os.O_CREAT | os.O_EXCL, 0o600, dir_fd=dir_fd)
            return made, True
    # Another mesh has made it in that instant.
    return os.open(path, flags, dir_fd=dir_fd), False


def _replaced(lock: int, path: Path | str, dir_fd: int | None) -> int:
    """Put a file of its own in the place of one that is locked; give that, locked. Raises OSError.

    A mesh that waits for the old one finds out by its inode, see `acquire`.
    """
    os.unlink(path, dir_fd=dir_fd)
    made, _ = _open(path, dir_fd)
    try:
        fcntl.flock(made, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.write(made, os.pread(lock, _MAX_SIZE, 0))
    except BaseException:
        os.close(made)
        raise
    os.close(lock)
    return made


def holder(path: Path | str, dir_fd: int | None = None) -> str:
    """The pid of the mesh that holds a lock, "unknown" if it has not been written yet."""
    try:
        lock = os.open(path, os.O_RDONLY | _SAFE, dir_fd=dir_fd)
    except OSError:
        return "unknown"
    try:
        return _header(os.pread(lock, 64, 0)) or "unknown"
    except OSError:
        return "unknown"
    finally:
        os.close(lock)


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
    if _why_not_ours(lock):
        return {}
    found = [match for line in _lines(lock) if (match := _LAUNCH.fullmatch(line))]
    by_id = {match[1]: [int(user) for user in match[2].split(",")] for match in found}
    return dict(list(by_id.items())[-_MAX_LAUNCHES:])


def _lines(lock: int) -> list[str]:
    return os.pread(lock, _MAX_SIZE, 0).decode("ascii", "replace").splitlines()[1:]


def add(path: Path | str, line: str, dir_fd: int | None = None) -> None:
    """List a socket that is about to be made, or a launch.

    Does nothing if there is no lock file any more, or it is not that of a mesh of this user.
    """
    with _opened(path, dir_fd) as lock:
        if lock is not None and line not in _lines(lock):
            os.write(lock, f"{line}\n".encode())


def remove_launch(path: Path | str, mesh_id: str, dir_fd: int | None = None) -> None:
    """Take out a launch of which nothing is left. To be called by the holder of the lock only."""
    with _opened(path, dir_fd) as lock:
        if lock is not None:
            begin(lock, [line for line in _lines(lock) if f"launch {mesh_id} " not in line])


@contextmanager
def _opened(path: Path | str, dir_fd: int | None) -> Iterator[int | None]:
    """Open the lock file at its end; None if there is none of a mesh of this user."""
    try:
        lock = os.open(path, os.O_RDWR | _SAFE, dir_fd=dir_fd)
    except FileNotFoundError:
        yield None
        return
    try:
        if _why_not_ours(lock):
            yield None
        else:
            os.lseek(lock, 0, os.SEEK_END)
            yield lock
    finally:
        os.close(lock)
