"""The lock file of a runtime dir, which also records what the mesh has made.

The first line is the pid of the mesh that holds the lock, or that held it last. Each further line
is either the path of a plugin's socket, relative to the directory, or a mesh run: `launch`, its
random id, and the uids of its processes. By these records the next mesh finds the sockets and
processes that a mesh that was killed has left.
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
from functools import partial
from pathlib import Path

from meshtrio.util.descriptors import closing_descriptor, closing_on_error

LOCK_FILE_NAME = "mesh.lock"

_HEADER = re.compile(rb"(\d{1,10}\n)?")
_SOCKET_LINE = re.compile(
    r"(?P<folder>[A-Za-z0-9_-]+\.d/)?[A-Za-z0-9_-]+-\d+(\.b)?(\.notify)?\.sock"
)
_MESH_RUN_LINE = re.compile(r"launch ([0-9a-f]{32}) (\d{1,10}(?:,\d{1,10})*)")
_MAX_MESH_RUNS = 64
_MAX_SIZE = 4 * 1024 * 1024
_SAFE_OPEN_FLAGS = os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY
"""Flags with which open(2) follows no symbolic link and waits for no other end of a FIFO."""


def is_in(directory_fd: int) -> bool:
    """Whether a directory has the lock file of a mesh of this user."""
    with contextlib.suppress(OSError), _opened(LOCK_FILE_NAME, os.O_RDONLY, directory_fd):
        return True
    return False


@contextmanager
def _opened(path: Path | str, flags: int, dir_fd: int | None = None) -> Iterator[int]:
    """Open the lock file of a mesh of this user, for the block.

    Raises OSError; FileNotFoundError also if the file is not one.
    """
    with closing_descriptor(os.open(path, flags | _SAFE_OPEN_FLAGS, dir_fd=dir_fd)) as lock:
        if problem := _find_ownership_problem(lock):
            raise FileNotFoundError(errno.ENOENT, f"{LOCK_FILE_NAME} {problem}")
        yield lock


def _find_ownership_problem(lock_fd: int) -> str:
    """Explain why a file is not the lock file of a mesh of this user; "" if it is one."""
    status = os.fstat(lock_fd)
    if not stat.S_ISREG(status.st_mode):
        return "is not a regular file"
    if status.st_uid != os.geteuid():
        return f"belongs to uid {status.st_uid}"
    is_ours = _parse_header(os.pread(lock_fd, 64, 0)) is not None
    return "" if is_ours else "was not written by a mesh"


def _parse_header(content: bytes) -> str | None:
    """Return the pid in the first line, "" for an empty file, None for other content."""
    found = _HEADER.fullmatch(content[: content.find(b"\n") + 1 or None])
    return None if found is None else found[0].decode().strip()


def acquire(directory_fd: int) -> int:
    """Open the lock file of a directory, or make it if it does not exist, and lock it.

    Nothing is written to an existing file. If it has more than one hard link it is replaced by a
    copy, so that a link to another file of ours neither gets that overwritten nor prevents a mesh
    from starting. Returns the descriptor that holds the lock.

    Raises:
        BlockingIOError: Another process holds the lock.
        OSError: The file cannot be made or locked, and is removed if it was made here; or it is not
            a lock file of a mesh of this user, and is left unchanged.
    """
    lock, made = _open_or_create(directory_fd)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if problem := _find_ownership_problem(lock):
            raise FileExistsError(errno.EEXIST, f"{LOCK_FILE_NAME} {problem}")
        locked = os.fstat(lock)
        named = os.stat(LOCK_FILE_NAME, dir_fd=directory_fd, follow_symlinks=False)
        if not os.path.samestat(locked, named):
            raise BlockingIOError(errno.EAGAIN, "another mesh has just replaced it")
        if locked.st_nlink > 1:
            return _replace_linked(lock, directory_fd)
    except OSError as exc:
        os.close(lock)
        if made and not isinstance(exc, BlockingIOError):
            with contextlib.suppress(OSError):
                os.unlink(LOCK_FILE_NAME, dir_fd=directory_fd)
        raise
    return lock


def _open_or_create(directory_fd: int) -> tuple[int, bool]:
    """Open the lock file; return its descriptor and whether it was made. Raises OSError."""
    open_file = partial(os.open, LOCK_FILE_NAME, dir_fd=directory_fd)
    flags = os.O_RDWR | _SAFE_OPEN_FLAGS
    with contextlib.suppress(FileNotFoundError):
        return open_file(flags), False
    with contextlib.suppress(FileExistsError):
        return open_file(flags | os.O_CREAT | os.O_EXCL, 0o600), True
    # Another mesh has made it in between.
    return open_file(flags), False


def _replace_linked(lock_fd: int, directory_fd: int) -> int:
    """Replace a locked file by a locked copy of it; return its descriptor. Raises OSError.

    `acquire` detects by the inode if another mesh has locked the old file meanwhile.
    """
    os.unlink(LOCK_FILE_NAME, dir_fd=directory_fd)
    made, _ = _open_or_create(directory_fd)
    with closing_on_error(made):
        fcntl.flock(made, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.write(made, os.pread(lock_fd, _MAX_SIZE, 0))
    os.close(lock_fd)
    return made


def read_holder_pid(directory_fd: int) -> str:
    """Return the pid of the mesh that holds a lock, or "unknown" if it cannot be read."""
    flags = os.O_RDONLY | _SAFE_OPEN_FLAGS
    with contextlib.suppress(OSError):
        with closing_descriptor(os.open(LOCK_FILE_NAME, flags, dir_fd=directory_fd)) as lock:
            return _parse_header(os.pread(lock, 64, 0)) or "unknown"
    return "unknown"


def write_contents(lock_fd: int, lines: list[str]) -> None:
    """Overwrite the file with the pid of this process and some lines."""
    content = "".join(f"{line}\n" for line in (os.getpid(), *lines)).encode()
    # In this order, so that no record is lost if the mesh is killed in between.
    os.pwrite(lock_fd, content, 0)
    os.ftruncate(lock_fd, len(content))


def read_sockets(lock_fd: int) -> list[str]:
    """Return the relative paths of the recorded sockets."""
    return list(dict.fromkeys(filter(_SOCKET_LINE.fullmatch, _read_lines(lock_fd))))


def format_mesh_run(mesh_id: str, users: Iterable[int]) -> str:
    """Format the line that records a mesh run. The last line of a run is the valid one."""
    return f"launch {mesh_id} {','.join(map(str, sorted(users)))}"


def read_mesh_runs(lock_fd: int) -> dict[str, list[int]]:
    """Return the uids of the recorded mesh runs by id; of the last 64 runs at most.

    Records in a file of another user are ignored, since they would cause processes to be killed.
    """
    if _find_ownership_problem(lock_fd):
        return {}
    found = [match for line in _read_lines(lock_fd) if (match := _MESH_RUN_LINE.fullmatch(line))]
    by_id = {match[1]: [int(user) for user in match[2].split(",")] for match in found}
    return dict(list(by_id.items())[-_MAX_MESH_RUNS:])


def _read_lines(lock_fd: int) -> list[str]:
    return os.pread(lock_fd, _MAX_SIZE, 0).decode("ascii", "replace").splitlines()[1:]


def append_line(path: Path | str, line: str, dir_fd: int | None = None) -> None:
    """Record a mesh run, or a socket that is about to be made.

    Does nothing if there is no lock file of a mesh of this user.
    """
    flags = os.O_RDWR | os.O_APPEND
    with contextlib.suppress(FileNotFoundError), _opened(path, flags, dir_fd) as lock:
        if line not in _read_lines(lock):
            os.write(lock, f"{line}\n".encode())


def remove_mesh_run(path: Path | str, mesh_id: str) -> None:
    """Remove the record of a mesh run. Only the holder of the lock may call this."""
    with contextlib.suppress(FileNotFoundError), _opened(path, os.O_RDWR) as lock:
        write_contents(lock, [x for x in _read_lines(lock) if f"launch {mesh_id} " not in x])
