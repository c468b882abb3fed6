"""Control groups, version 2 (Documentation/admin-guide/cgroup-v2.rst of the kernel).

Where the mesh is given a delegated folder, each process starts in a cgroup of its own there. Its
children cannot leave it, whatever they do to their group, session or environment, and the kernel
itself holds it to its memory limit.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
import weakref
from pathlib import Path

from meshtrio.errors import ConfigError

_GONE_WITHIN = 2.0
_PAUSE = 0.005


class Cgroups:
    """The cgroups of one mesh. All of it is quick, but `remove`, which is for a worker thread."""

    def __init__(self, folder: Path, mesh_id: str) -> None:
        """Raises ConfigError for a folder that is no cgroup, is in use, or that we may not use.

        The folder is locked until `close`, or until this is collected: what is in it is killed and
        removed, which must not be another mesh's.
        """
        self._folder = folder
        self._prefix = prefix_of(mesh_id)
        try:
            self.close = weakref.finalize(self, os.close, _locked(folder))
            self.limits_memory = _enable_memory(folder)
            self._remove_stale()
        except BlockingIOError:
            raise ConfigError(
                [f"mesh: cgroup: {folder} is used by another mesh; give each a folder of its own"]
            ) from None
        except OSError as exc:
            raise ConfigError([f"mesh: cgroup: {folder} cannot be used: {exc}"]) from None

    def make(self, run: str, memory: int | None) -> Path:
        """Make the cgroup of a process run; `memory`: bytes that it may use. Raises OSError."""
        made = self._of(run)
        made.mkdir()
        if self.limits_memory and memory is not None:
            _write(made / "memory.max", str(memory))
            _write(made / "memory.oom.group", "1")
        return made

    def was_too_large(self, run: str) -> bool:
        """Whether the kernel has killed something in it for its use of memory."""
        with contextlib.suppress(OSError, ValueError):
            content = (self._of(run) / "memory.events").read_bytes()
            events = dict(line.split() for line in content.splitlines())
            return int(events.get(b"oom_kill", 0)) > 0
        return False

    def remove(self, run: str) -> int:
        """Kill what is left in a cgroup and remove it; gives how many processes those were."""
        gone = self._of(run)
        with contextlib.suppress(OSError):
            left = len((gone / "cgroup.procs").read_bytes().split())
            _kill(gone)
            return left
        return 0

    def _of(self, run: str) -> Path:
        return self._folder / f"{self._prefix}{run}"

    def _remove_stale(self) -> None:
        """What a mesh that was killed itself has left in the folder."""
        for entry in self._folder.iterdir():
            if entry.is_dir() and entry.name.startswith(PREFIX):
                _kill(entry)


PREFIX = "meshtrio-"
"""Of the names of cgroups that are the holder's of the lock to remove."""


def prefix_of(mesh_id: str) -> str:
    """Of the names of the cgroups of one launch, which alone its warden kills: it has no lock."""
    return f"{PREFIX}{mesh_id}-"


def _locked(folder: Path) -> int:
    """A descriptor that locks a folder. Raises BlockingIOError if another has it, and OSError."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _enable_memory(folder: Path) -> bool:
    """Have the memory controller in our cgroups, if we are given it."""
    if b"memory" not in (folder / "cgroup.controllers").read_bytes().split():
        return False
    _write(folder / "cgroup.subtree_control", "+memory")
    return True


def _write(path: Path, text: str) -> None:
    with path.open("r+") as file:
        file.write(text)


def _kill(cgroup: Path) -> None:
    """Kill all of it and remove it, which the kernel allows once the last has been reaped."""
    _write(cgroup / "cgroup.kill", "1")
    end = time.monotonic() + _GONE_WITHIN
    while True:
        try:
            cgroup.rmdir()
        except OSError:
            if time.monotonic() > end:
                raise
            time.sleep(_PAUSE)
        else:
            return
