"""Whether a template has the code that a program would import now. Standard library only."""

from __future__ import annotations

import os
import struct
import sys

_FILE = struct.Struct("=QQq")
"""Inode, size and modification time of a file."""
_CLOCK_GRANULARITY = 10_000_000
"""Nanoseconds by which the times of files may lag: the kernel sets them at its ticks."""


class CodeVersion:
    """The files of the modules that are imported now, as they are on disk.

    They are compared before each fork. That must not write to the objects of many modules, not even
    to their reference counts: each page so written is no longer shared with the children.
    """

    def __init__(self, began_at: int) -> None:
        """Describe the files, of modules that were imported since `began_at` (time_ns).

        A file that has changed since then counts as changed: that may have been after its import.
        """
        files = (getattr(module, "__file__", None) for module in list(sys.modules.values()))
        paths = {_find_file(file) for file in files if file} | {os.path.realpath(sys.executable)}
        self._paths = b"".join(os.fsencode(path) + b"\0" for path in sorted(paths))
        self._found = self._describe_files()
        self._is_certain = all(_is_older(path, began_at) for path in paths)

    def is_current(self) -> bool:
        """Whether no file has changed. Takes about 1 µs for each."""
        return self._is_certain and self._describe_files() == self._found

    def _describe_files(self) -> bytes:
        """Describe all files, one after the other, so that each uses the memory of the last."""
        found, begin = bytearray(), 0
        while (end := self._paths.find(b"\0", begin)) >= 0:
            found += _describe_file(self._paths[begin:end])
            begin = end + 1
        return bytes(found)


def _find_file(path: str) -> str:
    """Return the file that a module is in, which may be a zip file with the rest of the path."""
    while not os.path.exists(path) and os.path.dirname(path) != path:
        path = os.path.dirname(path)
    return path


def _is_older(path: str, began_at: int) -> bool:
    """Whether the inode of a file has not changed since, by the clock of its filesystem."""
    try:
        return os.stat(path).st_ctime_ns < began_at - _CLOCK_GRANULARITY
    except OSError:
        return True  # It is compared as missing.


def _describe_file(path: bytes) -> bytes:
    try:
        status = os.stat(path)
    except OSError:
        return bytes(_FILE.size)
    return _FILE.pack(status.st_ino, status.st_size, status.st_mtime_ns)


class HiddenModules:
    """Finds modules in a program's directory that it would import instead of the template's."""

    def __init__(self) -> None:
        self._checked: dict[str, tuple[int, str | None]] = {}
        """Time of the last change of each directory, and what was found then."""

    def find(self, directory: str) -> str | None:
        """Return the name of such a module; None if there is none."""
        try:
            changed_at = os.stat(directory).st_mtime_ns
            if directory not in self._checked or self._checked[directory][0] != changed_at:
                self._checked[directory] = changed_at, _find_hidden(directory)
        except OSError:
            return None  # The program cannot be imported from there either.
        return self._checked[directory][1]


def _find_hidden(directory: str) -> str | None:
    top_level = {name: module for name, module in sys.modules.items() if "." not in name}
    with os.scandir(directory) as entries:
        for entry in entries:
            name, _, suffix = entry.name.partition(".")
            module = top_level.get(name)
            if module is None or name == "__main__" or not _is_module(entry, suffix, module):
                continue
            file = getattr(module, "__file__", None) or ""
            if not os.path.realpath(file).startswith(os.path.realpath(directory) + os.sep):
                return name
    return None


def _is_module(entry: os.DirEntry[str], suffix: str, imported: object) -> bool:
    if suffix:
        return suffix in ("py", "pyc") or suffix.endswith("so")
    if not entry.is_dir():
        return False
    # A folder without `__init__` only adds to packages that have none either.
    is_package = any(
        os.path.exists(os.path.join(entry.path, f"__init__.{s}")) for s in ("py", "pyc")
    )
    return is_package or getattr(imported, "__file__", None) is None
