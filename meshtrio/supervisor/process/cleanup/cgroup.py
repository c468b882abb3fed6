"""Control groups, version 2 (Documentation/admin-guide/cgroup-v2.rst of the kernel).

If the mesh has a delegated directory, each process starts in a cgroup of its own there. Its
children cannot leave the cgroup, whatever they do to their group, session or environment, and the
kernel itself enforces the memory limit.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
import weakref
from pathlib import Path

from meshtrio.util.descriptors import closing_on_error
from meshtrio.util.errors import ConfigError

_REMOVE_TIMEOUT = 2.0
_REMOVE_RETRY_PAUSE = 0.005


class Cgroups:
    """The cgroups of one mesh. `remove` blocks and is for a worker thread."""

    def __init__(self, parent: Path, mesh_id: str, adopted_lock: int | None = None) -> None:
        """Lock the directory, and remove the cgroups that a mesh that was killed has left there.

        With `adopted_lock`, this process has done that before an upgrade; it is the descriptor that
        holds the lock.

        It stays locked until `close`, or until this object is collected, because what is in it is
        killed and removed, which must not be another mesh's.

        Raises ConfigError if the directory is not a cgroup, is in use, or may not be used.
        """
        self._parent = parent
        self._prefix = f"{CGROUP_PREFIX}{mesh_id}-"
        """Prefix of the names of its cgroups; the warden, which has no lock, kills only these."""
        try:
            self.lock = _lock_directory(parent) if adopted_lock is None else adopted_lock
            """The descriptor that holds the lock."""
            self.close = weakref.finalize(self, os.close, self.lock)
            self.can_limit_memory = _enable_memory_controller(parent)
            if adopted_lock is not None:
                return
            for entry in parent.iterdir():  # Left by meshes that were killed.
                if entry.is_dir() and entry.name.startswith(CGROUP_PREFIX):
                    _kill_and_remove(entry)
        except BlockingIOError:
            text = f"mesh: cgroup: {parent} is used by another mesh; give each its own"
            raise ConfigError([text]) from None
        except OSError as exc:
            raise ConfigError([f"mesh: cgroup: {parent} cannot be used: {exc}"]) from None

    def create(self, launch_id: str, memory_limit: int | None) -> Path:
        """Make the cgroup of a run; `memory_limit` is in bytes. Raises OSError."""
        path = self._path_for(launch_id)
        path.mkdir()
        if self.can_limit_memory and memory_limit is not None:
            _write(path / "memory.max", str(memory_limit))
            _write(path / "memory.oom.group", "1")
        return path

    def was_oom_killed(self, launch_id: str) -> bool:
        """Whether the kernel has killed a process of a run for exceeding the memory limit."""
        with contextlib.suppress(OSError, ValueError):
            content = (self._path_for(launch_id) / "memory.events").read_bytes()
            events = dict(line.split() for line in content.splitlines())
            return int(events.get(b"oom_kill", 0)) > 0
        return False

    def remove(self, launch_id: str) -> int:
        """Kill what is left in the cgroup of a run, remove it, and return the number killed."""
        path = self._path_for(launch_id)
        with contextlib.suppress(OSError):
            left = len((path / "cgroup.procs").read_bytes().split())
            _kill_and_remove(path)
            return left
        return 0

    def _path_for(self, launch_id: str) -> Path:
        return self._parent / f"{self._prefix}{launch_id}"


CGROUP_PREFIX = "meshtrio-"
"""Prefix of the names of all cgroups that the holder of the lock may remove."""


def _lock_directory(directory: Path) -> int:
    """Lock a directory; return the descriptor. Raises BlockingIOError if it is locked, OSError."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    with closing_on_error(descriptor):
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    return descriptor


def _enable_memory_controller(directory: Path) -> bool:
    """Enable the memory controller for our cgroups if it is delegated; return whether it is."""
    if b"memory" not in (directory / "cgroup.controllers").read_bytes().split():
        return False
    _write(directory / "cgroup.subtree_control", "+memory")
    return True


def _write(path: Path, text: str) -> None:
    with path.open("r+") as file:
        file.write(text)


def _kill_and_remove(cgroup: Path) -> None:
    """Kill all processes of a cgroup and remove it, once the last one has been reaped."""
    _write(cgroup / "cgroup.kill", "1")
    end = time.monotonic() + _REMOVE_TIMEOUT
    while True:
        try:
            return cgroup.rmdir()
        except OSError:
            if time.monotonic() > end:
                raise
            time.sleep(_REMOVE_RETRY_PAUSE)
