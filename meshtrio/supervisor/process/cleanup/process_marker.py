"""What identifies the processes of a mesh, wherever they are; and killing just those.

Standard library only: the warden, which imports nothing else, uses it too.
"""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import signal
import time
from collections.abc import Collection, Iterator

TYPE_CHECKING = False  # without importing typing
if TYPE_CHECKING or __package__:
    from meshtrio.util import pidfd
else:
    import pidfd  # in the warden, whose interpreter is isolated: see `warden_main`

_MAX_KILL_PASSES = 20
_KILL_PASS_PAUSE = 0.05
_RUN_BITS = 22
_MARKER_BIT = 1 << 62
_OUT_OF_RESOURCES = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)


class ProcessMarker:
    """What identifies the processes of one mesh, or of one of its process runs.

    A process belongs to it if all of this holds:

    - It carries the mark, which it has inherited: an environment variable with a random value, or a
      soft limit of RLIMIT_RSS in a range that begins with 40 random bits. Linux does not enforce
      that limit. Unlike the environment it cannot be cleared by accident, and other users can read
      it of processes that are not dumpable.
    - It is in the PID namespace of this process: a container that was given a copy of the
      environment is not ours.
    - Its real user is one of `users`, the mesh's own and those that the config names: other users
      that were given a copy of the environment are left alone.

    A child of `parent` needs the mark only.
    """

    def __init__(
        self,
        variable: str,
        users: Collection[int],
        first_limit: int = 0,
        last_limit: int | None = None,
        *,
        parent_pid: int | None = None,
    ) -> None:
        """Make a mark.

        Args:
            variable: The environment variable, as `LOCK_FILE_NAME=value`; "" for none.
            users: The numbers of the users whose processes are meant.
            first: The lowest limit that is meant; 0 for none.
            last: The highest, if it is not the same.
            parent: The pid of the mesh. A child of it that carries a mark has become one when its
                parent ended, as the kernel has it where the mesh is PID 1 or a subreaper.
        """
        self._parent_pid = parent_pid
        self._variable = os.fsencode(variable)
        self._users = frozenset(users)
        self._limits = (
            range(first_limit, (first_limit if last_limit is None else last_limit) + 1)
            if first_limit
            else range(0)
        )

    def is_carried_by(self, name: int | str) -> bool:
        """Whether `/proc/NAME` carries the mark. False if it cannot be read."""
        if self._limits and read_rss_limit(name) in self._limits:
            return True
        if not self._variable:
            return False
        environment = read_proc_file(name, "environ")
        return self._variable in environment and self._variable in environment.split(b"\0")

    def find_processes(self) -> Iterator[ProcessInfo]:
        """Yield the processes that belong to it, without this one. Raises OSError; see `read`."""
        for name in os.listdir(b"/proc"):
            if name.isdigit():
                found = self.match_process(int(name))
                if found is not None and found.pid != os.getpid():
                    yield found

    def match_process(self, name: int | str) -> ProcessInfo | None:
        """Return the process of `/proc/NAME` if it belongs to it, else None."""
        if not self.is_carried_by(name):
            return None
        found = ProcessInfo(name)
        return found if self.can_belong(found) else None

    def can_belong(self, process: ProcessInfo) -> bool:
        """Whether a process that carries the mark lives, and is where ours can be."""
        if not process.is_alive:
            return False
        if self._parent_pid is not None and process.ppid == self._parent_pid:
            return True
        return process.uid in self._users and process.is_in_own_namespace


def make_mesh_marker(
    mesh_id: str, users: Collection[int], *, parent_pid: int | None = None
) -> ProcessMarker:
    """Return the mark of all that a mesh has started, without its wardens; see `ProcessMarker`."""
    first = encode_marker_limit(mesh_id, 1)
    last = first + (1 << _RUN_BITS) - 2
    return ProcessMarker(f"MESH_ID={mesh_id}", users, first, last, parent_pid=parent_pid)


def encode_marker_limit(mesh_id: str, run_number: int) -> int:
    """Return the soft limit that marks one process run of a mesh; number 0 marks its wardens.

    After four million runs it begins again with 1.
    """
    number = (run_number - 1) % ((1 << _RUN_BITS) - 1) + 1 if run_number else 0
    return _MARKER_BIT | int(mesh_id[:10], 16) << _RUN_BITS | number


def set_marker_limit(pid: int, limit: int) -> None:
    """Mark a process, 0 for this one, and what it starts from now on.

    Does nothing where the hard limit is lower, and for a process that may not be changed.
    """
    with contextlib.suppress(OSError, ValueError):
        _, hard = resource.prlimit(pid, resource.RLIMIT_RSS)
        if hard == resource.RLIM_INFINITY or hard >= limit:
            resource.prlimit(pid, resource.RLIMIT_RSS, (limit, hard))


def read_rss_limit(name: int | str) -> int:
    """Return the soft limit of RLIMIT_RSS of `/proc/NAME`; 0 if there is none, or it is hidden."""
    _, found, after = read_proc_file(name, "limits").partition(b"\nMax resident set ")
    soft = after.split(None, 1)[0] if found else b""
    return int(soft) if soft.isdigit() else 0


def is_warden(pid: int) -> bool:
    """Whether a process carries the mark of a warden, of any mesh."""
    limit = read_rss_limit(pid)
    return is_marker_limit(limit) and limit % (1 << _RUN_BITS) == 0


def is_marker_limit(limit: int) -> bool:
    """Whether a soft limit is the mark of some mesh, and not a limit that a user has set."""
    return bool(limit & _MARKER_BIT)


class ProcessInfo:
    """The parts of `/proc/PID/status` that are used here."""

    def __init__(self, name: int | str) -> None:
        """Read the status of `/proc/NAME`. One that cannot be read is not `alive`."""
        self.name = name
        lines = (line.partition(b":") for line in read_proc_file(name, "status").splitlines())
        fields = {key: value.split() for key, _, value in lines}
        self._pids = [int(pid) for pid in fields.get(b"NSpid", ())]
        self.uid = int(fields[b"Uid"][0]) if b"Uid" in fields else -1
        """The real user id."""
        self.ppid = int(fields[b"PPid"][0]) if b"PPid" in fields else 0
        """As `/proc` numbers it."""
        self.state = fields[b"State"][0].decode() if self._pids else "X"
        """One letter, as in `/proc/PID/stat`."""
        self.is_alive = self.state not in "ZX"
        """Whether it can be read, and is neither a zombie nor dead."""

    @property
    def pid(self) -> int:
        """Its pid in the namespace of this process, which `/proc` may number otherwise."""
        return self._pids[min(self.namespace_depth, ProcessInfo("self").namespace_depth) - 1]

    @property
    def is_stopped(self) -> bool:
        """Whether it is stopped, by a signal or by a process that traces it."""
        return self.state in "Tt"

    @property
    def namespace_depth(self) -> int:
        """How many PID namespaces it is in, of those that `/proc` shows."""
        return len(self._pids)

    @property
    def is_in_own_namespace(self) -> bool:
        """Whether it is in the PID namespace of this process.

        `/proc` shows the processes of the namespace that it was mounted for, and of those below. A
        process has one pid for each namespace from that on. Where `/proc` is that of our own
        namespace, that settles it, also for processes whose links cannot be read.
        """
        if self.namespace_depth != ProcessInfo("self").namespace_depth:
            return False
        return (
            self.namespace_depth == 1
            or _read_pid_namespace(self.name) == _read_pid_namespace("self") is not None
        )


def _read_pid_namespace(name: int | str) -> str | None:
    try:
        return os.readlink(f"/proc/{name}/ns/pid")
    except OSError:
        return None


def read_proc_file(name: int | str, file: str) -> bytes:
    """Read `/proc/NAME/FILE`; b"" if it is hidden or gone. In bytes, since it need not be UTF-8.

    Raises OSError if this process is out of descriptors or memory.
    """
    try:
        with open(f"/proc/{name}/{file}", "rb", buffering=0) as opened:
            return opened.read()
    except OSError as exc:
        if exc.errno in _OUT_OF_RESOURCES:
            raise
        return b""


class KillReport:
    """What a sweep has done."""

    def __init__(self) -> None:
        self.killed: set[int] = set()
        self.unkillable: dict[int, str] = {}
        """By pid, why a process could not be killed."""
        self.is_complete = False
        """Whether nothing more was found in the end."""


def kill_marked_processes(marker: ProcessMarker) -> KillReport:
    """Kill what belongs to a mark, and look again until there is nothing more, at most 20 times.

    A process that may not be killed is left, and keeps no other from being killed. Raises OSError
    if the processes cannot be listed, or this process is out of descriptors or memory.
    """
    swept = KillReport()
    for _ in range(_MAX_KILL_PASSES):
        found = [each for each in marker.find_processes() if each.pid not in swept.unkillable]
        for each in found:
            _kill(each, marker, swept)
        if not found:
            swept.is_complete = not swept.unkillable
            break
        time.sleep(_KILL_PASS_PAUSE)
    return swept


def _kill(process: ProcessInfo, marker: ProcessMarker, report: KillReport) -> None:
    """Kill a process if it is still the one that was found."""

    def is_same() -> bool:
        return marker.match_process(process.name) is not None

    try:
        if pidfd.send_signals(process.pid, (signal.SIGKILL,), is_same):
            report.killed.add(process.pid)
    except ProcessLookupError:
        pass
    except OSError as exc:
        if exc.errno not in _OUT_OF_RESOURCES:  # The next pass tries again.
            report.unkillable[process.pid] = exc.strerror or str(exc)
