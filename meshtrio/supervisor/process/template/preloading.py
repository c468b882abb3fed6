"""Imports the modules of a template, and finds what forbids to fork it. Standard library only."""

from __future__ import annotations

import contextlib
import importlib
import os
import struct
import sys
import threading
from collections.abc import Collection, Iterator, Sequence


class NotForkableError(Exception):
    """This process must not fork; the text says why."""


_FILE = struct.Struct("=QQq")
"""Inode, size and modification time of a file."""
_forks = 0
"""Number of forks that were made by Python code while modules were imported."""


def _count_fork() -> None:
    global _forks
    _forks += 1


os.register_at_fork(before=_count_fork)


def import_modules(names: Sequence[str], allowed_descriptors: Collection[int]) -> None:
    """Import modules, and check after each that this process can still be forked.

    Raises NotForkableError if it cannot, or if a module cannot be imported.
    """
    pid = os.getpid()
    if problem := find_obstacle(allowed_descriptors):  # by sitecustomize, most likely
        raise NotForkableError(f"the interpreter {problem} before it imported anything")
    for name in names:
        forks_before = _forks
        try:
            importlib.import_module(name)
        except BaseException as exc:
            _exit_if_forked(pid)
            text = f"{type(exc).__name__}: {exc}".rstrip(": ")
            raise NotForkableError(f"importing {name} failed: {text}") from exc
        _exit_if_forked(pid)
        if _forks != forks_before:
            raise NotForkableError(f"{name} forked when it was imported")
        if problem := find_obstacle(allowed_descriptors):
            raise NotForkableError(f"{name} {problem} when it was imported")


def _exit_if_forked(pid: int) -> None:
    """End a child that a module has forked, and that has come back from its import."""
    if os.getpid() != pid:
        os._exit(0)


def find_obstacle(allowed_descriptors: Collection[int]) -> str | None:
    """Find what forbids to fork, as a predicate in the past tense; None if nothing does."""
    if len(os.listdir("/proc/self/task")) > 1:
        names = [each.name for each in threading.enumerate()[1:]]
        return f"started a thread ({', '.join(names) or 'not in Python'})"
    with contextlib.suppress(ChildProcessError):
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        return "left a child process running"
    for target in _find_open_files(allowed_descriptors):
        what = "a socket" if target.startswith("socket:") else target
        return f"left {what} open"
    return None


def _find_open_files(allowed_descriptors: Collection[int]) -> Iterator[str]:
    for name in os.listdir("/proc/self/fd"):
        # The descriptor of the listing itself is closed by now.
        if int(name) not in allowed_descriptors:
            with contextlib.suppress(FileNotFoundError):
                yield os.readlink(f"/proc/self/fd/{name}")


class CodeVersion:
    """The files of the modules that are imported now, as they are on disk.

    They are compared before each fork. That must not write to the objects of many modules, not even
    to their reference counts: each page so written is no longer shared with the children.
    """

    def __init__(self) -> None:
        files = (getattr(module, "__file__", None) for module in list(sys.modules.values()))
        paths = {file for file in files if file} | {os.path.realpath(sys.executable)}
        self._paths = b"".join(os.fsencode(path) + b"\0" for path in sorted(paths))
        self._found = self._describe_files()

    def is_current(self) -> bool:
        """Whether no file has changed. Takes about 1 µs for each."""
        return self._describe_files() == self._found

    def _describe_files(self) -> bytes:
        """Describe all files, one after the other, so that each uses the memory of the last."""
        found, begin = bytearray(), 0
        while (end := self._paths.find(b"\0", begin)) >= 0:
            found += _describe_file(self._paths[begin:end])
            begin = end + 1
        return bytes(found)


def _describe_file(path: bytes) -> bytes:
    try:
        status = os.stat(path)
    except OSError:
        return bytes(_FILE.size)
    return _FILE.pack(status.st_ino, status.st_size, status.st_mtime_ns)
