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

_OPEN = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def open_folder(path: Path | str, dir_fd: int | None = None) -> int:
    """Open a folder, which may be no symbolic link.

    Raises:
        OSError: NotADirectoryError for what is no folder, a link to one included.
    """
    return os.open(path, _OPEN, dir_fd=dir_fd)


@contextmanager
def opened(path: Path | str, dir_fd: int | None = None) -> Iterator[int]:
    """The same, for the block."""
    folder = open_folder(path, dir_fd)
    try:
        yield folder
    finally:
        os.close(folder)


def kind_of(name: str, folder: int) -> int | None:
    """The type of a file as in `stat.S_IFMT`, that of a link itself; None if there is none.

    Raises:
        OSError: it cannot be looked at.
    """
    try:
        return stat.S_IFMT(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode)
    except FileNotFoundError:
        return None


def remove_socket(name: str, folder: int, *, or_link: bool = False) -> None:
    """Remove a socket, and nothing that is not one; what cannot be removed stays.

    Args:
        name: a single name, without a folder.
        folder: the descriptor of the folder that it is in.
        or_link: remove a symbolic link of that name, too.
    """
    kinds = (stat.S_IFSOCK, stat.S_IFLNK) if or_link else (stat.S_IFSOCK,)
    with contextlib.suppress(OSError):
        if kind_of(name, folder) in kinds:
            os.unlink(name, dir_fd=folder)
