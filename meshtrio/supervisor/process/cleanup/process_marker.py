"""Recognizes the processes of a mesh, wherever they are, and kills exactly those.

Standard library and `meshtrio.util.processes` only: the warden uses it, which imports nothing else.
"""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import time
from collections.abc import Collection, Iterator

TYPE_CHECKING = False  # without importing typing
if TYPE_CHECKING or __package__:
    from meshtrio.util import processes
else:
    import processes  # in the warden, whose interpreter is isolated: see `warden_main`

_MAX_KILL_PASSES = 20
_KILL_PASS_PAUSE = 0.05
_RUN_BITS = 22
_MARKER_BIT = 1 << 62


class ProcessMarker:
    """The mark that identifies the processes of one mesh, or of one of its process runs.

    A process matches if all of these conditions hold:

    - It carries the mark, which it has inherited: an environment variable with a random value, or a
      soft limit of RLIMIT_RSS in a range that begins with 40 random bits. Linux does not enforce
      that limit. Unlike the environment it is not cleared by accident, and other users can read it
      even of processes that are not dumpable.
    - It is in the PID namespace of this process: a container that got a copy of the environment
      does not belong to the mesh.
    - Its real uid is one of `users`, the mesh's own and those that the config names: processes of
      other users that got a copy of the environment do not belong to it either.

    A child of `parent_pid` needs the mark only.
    """

    def __init__(
        self,
        variable: str,
        users: Collection[int],
        limits: Collection[int] = (),
        *,
        parent_pid: int | None = None,
    ) -> None:
        """Make a mark.

        The variable is given as `NAME=value`, "" for none; `limits` are the soft limits that match.
        A marked process has become a child of the mesh (`parent_pid`) when its parent exited, if
        the mesh is PID 1 or a subreaper.
        """
        self._parent_pid = parent_pid
        self._variable = os.fsencode(variable)
        self._users = frozenset(users)
        self._limits = limits

    def is_carried_by(self, name: int | str) -> bool:
        """Whether `/proc/NAME` carries the mark. False if it cannot be read."""
        if self._limits and read_rss_limit(name) in self._limits:
            return True
        if not self._variable:
            return False
        environment = processes.read_proc_file(name, "environ")
        return self._variable in environment and self._variable in environment.split(b"\0")

    def find_processes(self) -> Iterator[processes.ProcessInfo]:
        """Yield the processes that match, except this one. Raises OSError; see `read_proc_file`."""
        for found in map(self.match_process, processes.list_pids()):
            if found is not None and found.pid != os.getpid():
                yield found

    def match_process(self, name: int | str) -> processes.ProcessInfo | None:
        """Return the process of `/proc/NAME` if it matches, else None."""
        if not self.is_carried_by(name):
            return None
        found = processes.ProcessInfo(name)
        return found if self.can_belong(found) else None

    def can_belong(self, process: processes.ProcessInfo) -> bool:
        """Whether a process that carries the mark fulfils the other conditions, and is alive."""
        if not process.is_alive or not process.namespace_depth:
            return False
        if self._parent_pid is not None and process.ppid == self._parent_pid:
            return True
        return process.uids[0] in self._users and process.is_in_own_namespace


def make_mesh_marker(
    mesh_id: str, users: Collection[int], *, parent_pid: int | None = None
) -> ProcessMarker:
    """Make the mark of all that a mesh has started, except its wardens; see `ProcessMarker`."""
    first = encode_marker_limit(mesh_id, 1)
    limits = range(first, first + (1 << _RUN_BITS) - 1)
    return ProcessMarker(f"MESH_ID={mesh_id}", users, limits, parent_pid=parent_pid)


def encode_marker_limit(mesh_id: str, run_number: int) -> int:
    """Return the soft limit that marks a process run of a mesh; number 0 marks its wardens.

    Numbers wrap around to 1 after four million process runs.
    """
    number = (run_number - 1) % ((1 << _RUN_BITS) - 1) + 1 if run_number else 0
    return _MARKER_BIT | int(mesh_id[:10], 16) << _RUN_BITS | number


def set_marker_limit(pid: int, limit: int) -> None:
    """Mark a process, 0 for this one, and what it starts from now on.

    Does nothing if its hard limit is lower, or if it may not be changed.
    """
    with contextlib.suppress(OSError, ValueError):
        _, hard = resource.prlimit(pid, resource.RLIMIT_RSS)
        if hard == resource.RLIM_INFINITY or hard >= limit:
            resource.prlimit(pid, resource.RLIMIT_RSS, (limit, hard))


def read_rss_limit(name: int | str) -> int:
    """Return the soft limit of RLIMIT_RSS of `/proc/NAME`; 0 if there is none, or it is hidden."""
    _, found, after = processes.read_proc_file(name, "limits").partition(b"\nMax resident set ")
    soft = after.split(None, 1)[0] if found else b""
    return int(soft) if soft.isdigit() else 0


def is_warden(pid: int) -> bool:
    """Whether a process carries the mark of a warden of any mesh."""
    limit = read_rss_limit(pid)
    return is_marker_limit(limit) and limit % (1 << _RUN_BITS) == 0


def is_marker_limit(limit: int) -> bool:
    """Whether a soft limit is the mark of any mesh, and not a limit that a user has set."""
    return limit // _MARKER_BIT == 1  # An infinite limit may be -1.


class KillReport:
    """The result of `kill_marked_processes`."""

    def __init__(self) -> None:
        self.killed: set[int] = set()
        """Pids of the processes that were sent SIGKILL."""
        self.unkillable: dict[int, str] = {}
        """The reason why a process could not be killed, by its pid."""
        self.is_complete = False
        """Whether the last pass found nothing, and nothing unkillable was left."""


def kill_marked_processes(marker: ProcessMarker) -> KillReport:
    """Kill all processes that match, in passes until one finds nothing; at most 20 passes. Blocks.

    A process that may not be killed is skipped. Raises OSError if the processes cannot be listed,
    or this process is out of descriptors or memory.
    """
    report = KillReport()
    for _ in range(_MAX_KILL_PASSES):
        found = [each for each in marker.find_processes() if each.pid not in report.unkillable]
        for each in found:
            _kill(each, marker, report)
        if not found:
            report.is_complete = not report.unkillable
            break
        time.sleep(_KILL_PASS_PAUSE)
    return report


def _kill(process: processes.ProcessInfo, marker: ProcessMarker, report: KillReport) -> None:
    """Kill a process if it still matches."""

    def is_same() -> bool:
        return marker.match_process(process.name) is not None

    try:
        if processes.send_signals(process.pid, (signal.SIGKILL,), is_same):
            report.killed.add(process.pid)
    except OSError as exc:
        if exc.errno not in processes.OUT_OF_RESOURCES:  # The next pass tries again.
            report.unkillable[process.pid] = exc.strerror or str(exc)
