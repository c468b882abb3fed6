"""Closing descriptors at the end of a block, and directories by descriptor.

The content of a directory to which others may write can change between two calls. So a directory is
opened once, without following symbolic links, and its files are named relative to the descriptor.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_DIRECTORY_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


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
