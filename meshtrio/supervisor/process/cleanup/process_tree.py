"""Decides whether a process belongs to a plugin, and which of its processes hold a socket.

A process belongs to a plugin if it is in the session or the process group of the process that the
mesh has started, descends from it, is in its cgroup, or carries its launch id in its environment.
Each criterion covers what the others miss: a daemon has another session and parent, and a program
may overwrite its environment. All of it is for a worker thread.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Iterator
from contextlib import suppress
from itertools import islice

import attrs

from meshtrio import contract
from meshtrio.supervisor.process.cleanup.cgroup import CGROUP_PREFIX
from meshtrio.supervisor.process.proc import procfs
from meshtrio.util.processes import read_proc_file

_MAX_ANCESTORS = 64
_MAX_DESCRIPTORS = 100_000
"""Maximum number of descriptors of a plugin that are searched, which takes 0.2 s."""


@attrs.frozen
class ProcessTree:
    """The processes of one process run of a plugin."""

    leader_pid: int
    """The pid of the process that the mesh has started."""
    launch_id: str
    """The value of MESH_LAUNCH_ID that they inherit."""

    def contains(self, pid: int) -> bool:
        """Whether a process, which exists, is one of them."""
        is_led = self.is_led(pid)
        return is_led or (pid > 0 and (self._is_descendant(pid) or self._has_launch_id(pid)))

    def is_led(self, pid: int) -> bool:
        """Whether it is one by group or session: two system calls, fit for the event loop."""
        try:
            return pid > 0 and self.leader_pid in (pid, os.getpgid(pid), os.getsid(pid))
        except OSError:
            return False

    def _is_descendant(self, pid: int) -> bool:
        for _ in range(_MAX_ANCESTORS):
            found = procfs.read_stat(pid)
            if found is None or found.ppid <= 1:
                return False
            pid = found.ppid
            if self.is_led(pid):
                return True
        return False

    def _has_launch_id(self, pid: int) -> bool:
        mark = f"{contract.MESH_LAUNCH_ID}={self.launch_id}".encode()
        if mark in read_proc_file(pid, "environ").split(b"\0"):
            return True
        end = f"-{self.launch_id}".encode()
        directories = read_proc_file(pid, "cgroup").replace(b"\n", b"/").split(b"/")
        prefix = CGROUP_PREFIX.encode()
        return any(each.startswith(prefix) and each.endswith(end) for each in directories)

    def find_pids(self) -> Iterator[int]:
        """Yield the pids of all of them, cheaply found ones first. Raises OSError."""
        stats = {stat.pid: stat for stat in procfs.iter_stats() if stat.is_alive}
        known = {s.pid for s in stats.values() if self.leader_pid in (s.pid, s.pgrp, s.session)}
        yield from sorted(known)
        rest = [pid for pid in stats if pid not in known]
        yield from (pid for pid in rest if self._is_descendant(pid) or self._has_launch_id(pid))

    def holds_sockets(self, inodes: Iterable[int]) -> bool | None:
        """Whether each of some sockets, by inode, is held by one of them. Raises OSError.

        Returns None if that is unknown: the mesh may not read the descriptors of one of them, which
        runs as another user (proc(5), PTRACE_MODE_READ_FSCREDS), or they have more than
        `_MAX_DESCRIPTORS`.
        """
        left = {b"socket:[%d]" % inode for inode in inodes}
        count, hidden = 0, False
        for pid in self.find_pids():
            try:
                for link in _read_descriptor_links(pid):
                    left.discard(link)
                    count += 1
                    if not left:
                        return True
                    if count >= _MAX_DESCRIPTORS:
                        return None
            except PermissionError:
                hidden = True
            except OSError:
                continue  # It has exited.
        return None if hidden else False


def find_holder(trees: Collection[ProcessTree], inode: int) -> ProcessTree | None:
    """Find which of some process runs holds a socket: their leaders, groups and sessions.

    That is fast, most of all if a leader holds it, but does not find processes that belong to a run
    by other criteria. Returns None if none of them is found to hold it. Raises OSError.
    """
    link = b"socket:[%d]" % inode
    for tree in trees:
        if _holds(tree.leader_pid, link):
            return tree
    for stat in list(procfs.iter_stats()):
        for tree in trees:
            if tree.leader_pid in (stat.pgrp, stat.session) and _holds(stat.pid, link):
                return tree
    return None


def _holds(pid: int, link: bytes) -> bool:
    """Whether a process is seen to have a descriptor, among its first `_MAX_DESCRIPTORS`."""
    with suppress(OSError):  # It has exited, or belongs to another user.
        return link in islice(_read_descriptor_links(pid), _MAX_DESCRIPTORS)
    return False


def _read_descriptor_links(pid: int) -> Iterator[bytes]:
    """Yield the targets of the descriptors of a process. Raises OSError."""
    directory = b"/proc/%d/fd" % pid
    for name in os.listdir(directory):
        try:
            yield os.readlink(directory + b"/" + name)
        except FileNotFoundError:
            continue  # It was closed.
