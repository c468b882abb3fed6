"""Descriptors: closed at the end of a block, of directories, and of regular files.

The content of a directory to which others may write can change between two calls. So a directory is
opened once, without following symbolic links, and its files are named relative to the descriptor.

A path that comes from a user may lead to anything: opening a FIFO waits for a writer, and /dev/zero
never ends. So files are opened without blocking, and their type is checked by the descriptor, which
cannot be replaced; they are read up to a maximum size.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_DIRECTORY_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE_TYPES = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a FIFO",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}
_FILE_FLAGS = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_MAX_PEM_SIZE = 1024 * 1024
"""Maximum size of a PEM file in bytes; the authorities of a system are about 220 KB."""


@contextmanager
def closing_descriptor(descriptor: int) -> Iterator[int]:
    """Close a descriptor after the block. Compare `contextlib.closing`."""
    try:
        yield descriptor
    finally:
        os.close(descriptor)


@contextmanager
def closing_on_error(*descriptors: int) -> Iterator[None]:
    """Close descriptors if the block raises."""
    try:
        yield
    except BaseException:
        for each in descriptors:
            os.close(each)
        raise


def open_directory(path: Path | str, dir_fd: int | None = None) -> int:
    """Open a directory and return the descriptor. Raises OSError, also for a symbolic link."""
    return os.open(path, _DIRECTORY_FLAGS, dir_fd=dir_fd)


def get_file_type(name: str, directory_fd: int) -> int | None:
    """Return the type of a file (`stat.S_IFMT`), or of a symbolic link; None if there is none."""
    try:
        return stat.S_IFMT(os.stat(name, dir_fd=directory_fd, follow_symlinks=False).st_mode)
    except FileNotFoundError:
        return None


def remove_socket(name: str, directory_fd: int, *, include_symlinks: bool = False) -> None:
    """Remove a file if it is a socket, or maybe a symbolic link. Errors are ignored."""
    kinds = (stat.S_IFSOCK, stat.S_IFLNK) if include_symlinks else (stat.S_IFSOCK,)
    with contextlib.suppress(OSError):
        if get_file_type(name, directory_fd) in kinds:
            os.unlink(name, dir_fd=directory_fd)


def open_regular_file(path: Path | str) -> int:
    """Open a regular file, or a link to one, for reading without blocking; return the descriptor.

    Raises OSError if it cannot be opened or is not a regular file; `strerror` tells which.
    """
    try:
        descriptor = os.open(path, _FILE_FLAGS)
    except OSError as exc:
        if exc.errno == errno.ENXIO:  # open(2) of a Unix socket
            raise OSError(exc.errno, "it is a socket, not a regular file", str(path)) from None
        raise
    with closing_on_error(descriptor):
        mode = os.fstat(descriptor).st_mode
        if not stat.S_ISREG(mode):
            kind = _FILE_TYPES.get(stat.S_IFMT(mode), "something else")
            raise OSError(errno.EINVAL, f"it is {kind}, not a regular file", str(path))
    return descriptor


def read_regular_file(path: Path | str, max_size: int) -> bytes:
    """Read a whole regular file. Raises OSError as `open_regular_file`, or if it is too large.

    `max_size` applies to what is read, since files of /proc have a size of 0, and others grow.
    """
    content = bytearray()
    # Not by a file object, which returns None for a file of /proc that has nothing to read now.
    with closing_descriptor(open_regular_file(path)) as descriptor:
        while len(content) <= max_size and (part := os.read(descriptor, 256 * 1024)):
            content += part
    if len(content) > max_size:
        raise OSError(errno.EFBIG, f"it is larger than {max_size // 1024} KiB", str(path))
    return bytes(content)


@contextmanager
def copy_pem_to_memfd(path: Path | str | None) -> Iterator[str | None]:
    """Copy a PEM file to memory, and yield a path to the copy, for libraries that require paths.

    Yields None for None. Raises OSError as `read_regular_file`, with the path in `strerror`.
    """
    if path is None:
        yield None
        return
    try:
        data = read_regular_file(path, _MAX_PEM_SIZE)
    except OSError as exc:
        raise OSError(exc.errno, f"{path} cannot be read: {exc.strerror}") from None
    with open(os.memfd_create("meshtrio-pem", os.MFD_CLOEXEC), "wb", buffering=0) as copy:
        copy.write(data)
        yield f"/proc/self/fd/{copy.fileno()}"
