"""Folders by their descriptors, in which names cannot lead elsewhere.

What is in a folder that others may write to can change between two calls. So a folder is opened
once, without following a link, and its files are only named relative to the descriptor.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_OPEN_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def open_directory(path: Path | str, dir_fd: int | None = None) -> int:
    """Open a folder, which may be no symbolic link.

    Raises:
        OSError: NotADirectoryError for what is no folder, a link to one included.
    """
    return os.open(path, _OPEN_FLAGS, dir_fd=dir_fd)


@contextmanager
def directory_opened(path: Path | str, dir_fd: int | None = None) -> Iterator[int]:
    """The same, for the block."""
    folder = open_directory(path, dir_fd)
    try:
        yield folder
    finally:
        os.close(folder)


def get_file_type(name: str, directory_fd: int) -> int | None:
    """The type of a file as in `stat.S_IFMT`, that of a link itself; None if there is none.

    Raises:
        OSError: it cannot be looked at.
    """
    try:
        return stat.S_IFMT(os.stat(name, dir_fd=directory_fd, follow_symlinks=False).st_mode)
    except FileNotFoundError:
        return None


def remove_socket(name: str, directory_fd: int, *, include_symlinks: bool = False) -> None:
    """Remove a socket, and nothing that is not one; what cannot be removed stays.

    Args:
        name: a single name, without a folder.
        folder: the descriptor of the folder that it is in.
        or_link: remove a symbolic link of that name, too.
    """
    kinds = (stat.S_IFSOCK, stat.S_IFLNK) if include_symlinks else (stat.S_IFSOCK,)
    with contextlib.suppress(OSError):
        if get_file_type(name, directory_fd) in kinds:
            os.unlink(name, dir_fd=directory_fd)
