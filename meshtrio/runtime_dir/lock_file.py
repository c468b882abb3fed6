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

LOCK_FILE_NAME = "mesh.lock"

_HEADER = re.compile(rb"(\d{1,10}\n)?")
_SOCKET_LINE = re.compile(r"(?P<folder>[A-Za-z0-9_-]+\.d/)?[A-Za-z0-9_-]+-\d+(\.b)?\.sock")
_MESH_RUN_LINE = re.compile(r"launch ([0-9a-f]{32}) (\d{1,10}(?:,\d{1,10})*)")
_MAX_MESH_RUNS = 64
_MAX_SIZE = 4 * 1024 * 1024
_SAFE_OPEN_FLAGS = os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY
"""Neither follows a link nor waits for the other end of a FIFO."""


def is_mesh_lock(path: Path | str, dir_fd: int | None = None) -> bool:
    """Whether a file is the lock file of a mesh of this user.

    Args:
        path: of the file.
        dir_fd: the folder that `path` is relative to, here and below.
    """
    try:
        lock = os.open(path, os.O_RDONLY | _SAFE_OPEN_FLAGS, dir_fd=dir_fd)
    except OSError:
        return False
    try:
        return not _find_ownership_problem(lock)
    except OSError:
        return False
    finally:
        os.close(lock)


def _find_ownership_problem(lock_fd: int) -> str:
    """Why an open file is not the lock file of a mesh of this user, "" if it is one."""
    status = os.fstat(lock_fd)
    if not stat.S_ISREG(status.st_mode):
        return "is not a regular file"
    if status.st_uid != os.geteuid():
        return f"belongs to uid {status.st_uid}"
    return (
        "" if _parse_header(os.pread(lock_fd, 64, 0)) is not None else "was not written by a mesh"
    )


def _parse_header(content: bytes) -> str | None:
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
    lock, made = _open_or_create(path, dir_fd)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        problem = _find_ownership_problem(lock)
        if problem:
            raise FileExistsError(errno.EEXIST, f"{LOCK_FILE_NAME} {problem}")
        if not os.path.samestat(
            os.fstat(lock), os.stat(path, dir_fd=dir_fd, follow_symlinks=False)
        ):
            raise BlockingIOError(errno.EAGAIN, "another mesh has replaced it meanwhile")
        if os.fstat(lock).st_nlink > 1:
            return _replace_linked(lock, path, dir_fd)
    except OSError as exc:
        os.close(lock)
        if made and not isinstance(exc, BlockingIOError):
            with contextlib.suppress(OSError):
                os.unlink(path, dir_fd=dir_fd)
        raise
    return lock


def _open_or_create(path: Path | str, dir_fd: int | None) -> tuple[int, bool]:
    """Open the lock file, and tell whether it was made for that. Raises OSError."""
    flags = os.O_RDWR | _SAFE_OPEN_FLAGS
    try:
        return os.open(path, flags, dir_fd=dir_fd), False
    except FileNotFoundError:
        with contextlib.suppress(FileExistsError):
            made = os.open(path, flags | os.O_CREAT | os.O_EXCL, 0o600, dir_fd=dir_fd)
            return made, True
    # Another mesh has made it in that instant.
    return os.open(path, flags, dir_fd=dir_fd), False


def _replace_linked(lock_fd: int, path: Path | str, dir_fd: int | None) -> int:
    """Put a file of its own in the place of one that is locked; give that, locked. Raises OSError.

    A mesh that waits for the old one finds out by its inode, see `acquire`.
    """
    os.unlink(path, dir_fd=dir_fd)
    made, _ = _open_or_create(path, dir_fd)
    try:
        fcntl.flock(made, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.write(made, os.pread(lock_fd, _MAX_SIZE, 0))
    except BaseException:
        os.close(made)
        raise
    os.close(lock_fd)
    return made


def read_holder_pid(path: Path | str, dir_fd: int | None = None) -> str:
    """The pid of the mesh that holds a lock, "unknown" if it has not been written yet."""
    try:
        lock = os.open(path, os.O_RDONLY | _SAFE_OPEN_FLAGS, dir_fd=dir_fd)
    except OSError:
        return "unknown"
    try:
        return _parse_header(os.pread(lock, 64, 0)) or "unknown"
    except OSError:
        return "unknown"
    finally:
        os.close(lock)


def write_contents(lock_fd: int, lines: list[str]) -> None:
    """Write this process's pid, and what is to stay listed."""
    content = "".join(f"{line}\n" for line in (os.getpid(), *lines)).encode()
    # In this order, so that a mesh that is killed in between has not lost its launch.
    os.pwrite(lock_fd, content, 0)
    os.ftruncate(lock_fd, len(content))


def read_sockets(lock_fd: int) -> list[str]:
    """The relative paths of the sockets that the lock file lists."""
    return list(
        dict.fromkeys(line for line in _read_lines(lock_fd) if _SOCKET_LINE.fullmatch(line))
    )


def format_mesh_run(mesh_id: str, users: Iterable[int]) -> str:
    """The line that records a launch; the last line of a launch counts."""
    return f"launch {mesh_id} {','.join(map(str, sorted(users)))}"


def read_mesh_runs(lock_fd: int) -> dict[str, list[int]]:
    """The users of the launches that the lock file lists, by their ids; at most the last 64.

    There are none in a file of another user, who could have processes killed by it.
    """
    if _find_ownership_problem(lock_fd):
        return {}
    found = [match for line in _read_lines(lock_fd) if (match := _MESH_RUN_LINE.fullmatch(line))]
    by_id = {match[1]: [int(user) for user in match[2].split(",")] for match in found}
    return dict(list(by_id.items())[-_MAX_MESH_RUNS:])


def _read_lines(lock_fd: int) -> list[str]:
    return os.pread(lock_fd, _MAX_SIZE, 0).decode("ascii", "replace").splitlines()[1:]


def append_line(path: Path | str, line: str, dir_fd: int | None = None) -> None:
    """List a socket that is about to be made, or a launch.

    Does nothing if there is no lock file any more, or it is not that of a mesh of this user.
    """
    with _open_for_append(path, dir_fd) as lock:
        if lock is not None and line not in _read_lines(lock):
            os.write(lock, f"{line}\n".encode())


def remove_mesh_run(path: Path | str, mesh_id: str, dir_fd: int | None = None) -> None:
    """Take out a launch of which nothing is left. To be called by the holder of the lock only."""
    with _open_for_append(path, dir_fd) as lock:
        if lock is not None:
            write_contents(
                lock, [line for line in _read_lines(lock) if f"launch {mesh_id} " not in line]
            )


@contextmanager
def _open_for_append(path: Path | str, dir_fd: int | None) -> Iterator[int | None]:
    """Open the lock file at its end; None if there is none of a mesh of this user."""
    try:
        lock = os.open(path, os.O_RDWR | _SAFE_OPEN_FLAGS, dir_fd=dir_fd)
    except FileNotFoundError:
        yield None
        return
    try:
        if _find_ownership_problem(lock):
            yield None
        else:
            os.lseek(lock, 0, os.SEEK_END)
            yield lock
    finally:
        os.close(lock)
