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

_REMOVE_TIMEOUT = 2.0
_REMOVE_RETRY_PAUSE = 0.005


class Cgroups:
    """The cgroups of one mesh. All of it is quick, but `remove`, which is for a worker thread."""

    def __init__(self, parent: Path, mesh_id: str) -> None:
        """Raises ConfigError for a folder that is no cgroup, is in use, or that we may not use.

        The folder is locked until `close`, or until this is collected: what is in it is killed and
        removed, which must not be another mesh's.
        """
        self._parent = parent
        self._prefix = cgroup_prefix(mesh_id)
        try:
            self.close = weakref.finalize(self, os.close, _lock_directory(parent))
            self.can_limit_memory = _enable_memory_controller(parent)
            self._remove_stale()
        except BlockingIOError:
            raise ConfigError(
                [f"mesh: cgroup: {parent} is used by another mesh; give each a folder of its own"]
            ) from None
        except OSError as exc:
            raise ConfigError([f"mesh: cgroup: {parent} cannot be used: {exc}"]) from None

    def create(self, launch_id: str, memory_limit: int | None) -> Path:
        """Make the cgroup of a process run; `memory`: bytes that it may use. Raises OSError."""
        made = self._path_for(launch_id)
        made.mkdir()
        if self.can_limit_memory and memory_limit is not None:
            _write(made / "memory.max", str(memory_limit))
            _write(made / "memory.oom.group", "1")
        return made

    def was_oom_killed(self, launch_id: str) -> bool:
        """Whether the kernel has killed something in it for its use of memory."""
        with contextlib.suppress(OSError, ValueError):
            content = (self._path_for(launch_id) / "memory.events").read_bytes()
            events = dict(line.split() for line in content.splitlines())
            return int(events.get(b"oom_kill", 0)) > 0
        return False

    def remove(self, launch_id: str) -> int:
        """Kill what is left in a cgroup and remove it; gives how many processes those were."""
        gone = self._path_for(launch_id)
        with contextlib.suppress(OSError):
            left = len((gone / "cgroup.procs").read_bytes().split())
            _kill_and_remove(gone)
            return left
        return 0

    def _path_for(self, launch_id: str) -> Path:
        return self._parent / f"{self._prefix}{launch_id}"

    def _remove_stale(self) -> None:
        """What a mesh that was killed itself has left in the folder."""
        for entry in self._parent.iterdir():
            if entry.is_dir() and entry.name.startswith(CGROUP_PREFIX):
                _kill_and_remove(entry)


CGROUP_PREFIX = "meshtrio-"
"""Of the names of cgroups that are the holder's of the lock to remove."""


def cgroup_prefix(mesh_id: str) -> str:
    """Of the names of the cgroups of one launch, which alone its warden kills: it has no lock."""
    return f"{CGROUP_PREFIX}{mesh_id}-"


def _lock_directory(directory: Path) -> int:
    """A descriptor that locks a folder. Raises BlockingIOError if another has it, and OSError."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _enable_memory_controller(directory: Path) -> bool:
    """Have the memory controller in our cgroups, if we are given it."""
    if b"memory" not in (directory / "cgroup.controllers").read_bytes().split():
        return False
    _write(directory / "cgroup.subtree_control", "+memory")
    return True


def _write(path: Path, text: str) -> None:
    with path.open("r+") as file:
        file.write(text)


def _kill_and_remove(cgroup: Path) -> None:
    """Kill all of it and remove it, which the kernel allows once the last has been reaped."""
    _write(cgroup / "cgroup.kill", "1")
    end = time.monotonic() + _REMOVE_TIMEOUT
    while True:
        try:
            cgroup.rmdir()
        except OSError:
            if time.monotonic() > end:
                raise
            time.sleep(_REMOVE_RETRY_PAUSE)
        else:
            return
