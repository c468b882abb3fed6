"""Which processes are a plugin's, and which of them hold a socket; for a worker thread.

A process is a plugin's if it is in the session or the process group of the process that the mesh
has started, descends from it, is in its cgroup, or carries its launch id in its environment. Each
of them covers what the others miss: a daemon has another session and parent, and a program may
overwrite its environment.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator

import attrs

from meshtrio import contract
from meshtrio.errors import OUT_OF_RESOURCES
from meshtrio.supervise.processes import cgroup as cgroups
from meshtrio.supervise.processes import marks, procfs

_MAX_ANCESTORS = 64
_MAX_DESCRIPTORS = 100_000
"""Of all processes of a plugin, that are looked through for a socket: 0.2 s of a thread."""


@attrs.frozen
class Owner:
    """The processes of one launch of a plugin."""

    leader: int
    """The pid of the process that the mesh has started."""
    launch_id: str

    def owns(self, pid: int) -> bool:
        """Whether a process that is there is one of them."""
        return pid > 0 and (self._leads(pid) or self._is_above(pid) or self._is_marked(pid))

    def leads(self, pid: int) -> bool:
        """The part of `owns` that only takes two system calls, and may be asked in the loop."""
        return pid > 0 and self._leads(pid)

    def _leads(self, pid: int) -> bool:
        try:
            return self.leader in (pid, os.getpgid(pid), os.getsid(pid))
        except OSError:
            return False

    def _is_above(self, pid: int) -> bool:
        for _ in range(_MAX_ANCESTORS):
            try:
                found = procfs.stat_of(pid)
            except OSError as exc:
                if exc.errno in OUT_OF_RESOURCES:
                    raise
                return False  # it has ended, or is hidden from us
            if found is None or found.parent <= 1:
                return False
            pid = found.parent
            if self._leads(pid):
                return True
        return False

    def _is_marked(self, pid: int) -> bool:
        mark = f"{contract.MESH_LIFE}={self.launch_id}".encode()
        if mark in marks.read(pid, "environ").split(b"\0"):
            return True
        end = f"-{self.launch_id}".encode()
        folders = marks.read(pid, "cgroup").replace(b"\n", b"/").split(b"/")
        return any(
            each.startswith(cgroups.PREFIX.encode()) and each.endswith(end) for each in folders
        )

    def members(self) -> Iterator[int]:
        """Yield the pids of all of them, those first that are found with the least work.

        Raises:
            OSError: /proc cannot be listed.
        """
        stats = {stat.pid: stat for stat in procfs.stats() if stat.alive}
        known = {s.pid for s in stats.values() if self.leader in (s.pid, s.group, s.session)}
        yield from sorted(known)
        rest = [pid for pid in stats if pid not in known]
        yield from (pid for pid in rest if self._is_above(pid) or self._is_marked(pid))

    def holds(self, inodes: Iterable[int]) -> bool | None:
        """Whether each of some sockets is held by one of them.

        Returns:
            None if that cannot be seen: the descriptors of one of them cannot be read, because it
            runs as another user and the mesh may not look (proc(5), PTRACE_MODE_READ_FSCREDS), or
            they have more than `_MAX_DESCRIPTORS`.

        Raises:
            OSError: /proc cannot be listed.
        """
        left = {b"socket:[%d]" % inode for inode in inodes}
        looked_at, hidden = 0, False
        for pid in self.members():
            try:
                for link in _descriptors(pid):
                    left.discard(link)
                    looked_at += 1
                    if not left:
                        return True
                    if looked_at >= _MAX_DESCRIPTORS:
                        return None
            except PermissionError:
                hidden = True
            except OSError:
                continue  # it has ended
        return None if hidden else False


def _descriptors(pid: int) -> Iterator[bytes]:
    """Yield what the descriptors of a process refer to. Raises OSError."""
    folder = b"/proc/%d/fd" % pid
    for name in os.listdir(folder):
        try:
            yield os.readlink(folder + b"/" + name)
        except FileNotFoundError:
            continue  # it was closed
