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

_SWEEPS = 20
_SWEEP_PAUSE = 0.05
_RUN_BITS = 22
_MARK_BIT = 1 << 62
_OUT_OF_RESOURCES = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)


class Mark:
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
        first: int = 0,
        last: int | None = None,
        *,
        parent: int | None = None,
    ) -> None:
        """Make a mark.

        Args:
            variable: The environment variable, as `NAME=value`; "" for none.
            users: The numbers of the users whose processes are meant.
            first: The lowest limit that is meant; 0 for none.
            last: The highest, if it is not the same.
            parent: The pid of the mesh. A child of it that carries a mark has become one when its
                parent ended, as the kernel has it where the mesh is PID 1 or a subreaper.
        """
        self._parent = parent
        self._variable = os.fsencode(variable)
        self._users = frozenset(users)
        self._limits = range(first, (first if last is None else last) + 1) if first else range(0)

    def carried_by(self, name: int | str) -> bool:
        """Whether `/proc/NAME` carries the mark. False if it cannot be read."""
        if self._limits and soft_limit(name) in self._limits:
            return True
        if not self._variable:
            return False
        environment = read(name, "environ")
        return self._variable in environment and self._variable in environment.split(b"\0")

    def processes(self) -> Iterator[Status]:
        """Yield the processes that belong to it, without this one. Raises OSError; see `read`."""
        for name in os.listdir(b"/proc"):
            if name.isdigit():
                found = self.look_at(int(name))
                if found is not None and found.pid != os.getpid():
                    yield found

    def look_at(self, name: int | str) -> Status | None:
        """Return the process of `/proc/NAME` if it belongs to it, else None."""
        if not self.carried_by(name):
            return None
        found = Status(name)
        return found if self.allows(found) else None

    def allows(self, found: Status) -> bool:
        """Whether a process that carries the mark lives, and is where ours can be."""
        if not found.alive:
            return False
        if self._parent is not None and found.parent == self._parent:
            return True
        return found.user in self._users and found.in_our_namespace


def mark_of_mesh(mesh_id: str, users: Collection[int], *, parent: int | None = None) -> Mark:
    """Return the mark of all that a mesh has started, without its wardens; see `Mark`."""
    first = limit_of(mesh_id, 1)
    last = first + (1 << _RUN_BITS) - 2
    return Mark(f"MESH_ID={mesh_id}", users, first, last, parent=parent)


def limit_of(mesh_id: str, run: int) -> int:
    """Return the soft limit that marks one process run of a mesh; number 0 marks its wardens.

    After four million runs it begins again with 1.
    """
    number = (run - 1) % ((1 << _RUN_BITS) - 1) + 1 if run else 0
    return _MARK_BIT | int(mesh_id[:10], 16) << _RUN_BITS | number


def set_limit(pid: int, limit: int) -> None:
    """Mark a process, 0 for this one, and what it starts from now on.

    Does nothing where the hard limit is lower, and for a process that may not be changed.
    """
    with contextlib.suppress(OSError, ValueError):
        _, hard = resource.prlimit(pid, resource.RLIMIT_RSS)
        if hard == resource.RLIM_INFINITY or hard >= limit:
            resource.prlimit(pid, resource.RLIMIT_RSS, (limit, hard))


def soft_limit(name: int | str) -> int:
    """Return the soft limit of RLIMIT_RSS of `/proc/NAME`; 0 if there is none, or it is hidden."""
    _, found, after = read(name, "limits").partition(b"\nMax resident set ")
    soft = after.split(None, 1)[0] if found else b""
    return int(soft) if soft.isdigit() else 0


def is_warden(pid: int) -> bool:
    """Whether a process carries the mark of a warden, of any mesh."""
    limit = soft_limit(pid)
    return is_mark(limit) and limit % (1 << _RUN_BITS) == 0


def is_mark(limit: int) -> bool:
    """Whether a soft limit is the mark of some mesh, and not a limit that a user has set."""
    return bool(limit & _MARK_BIT)


class Status:
    """The parts of `/proc/PID/status` that are used here."""

    def __init__(self, name: int | str) -> None:
        """Read the status of `/proc/NAME`. One that cannot be read is not `alive`."""
        self.name = name
        lines = (line.partition(b":") for line in read(name, "status").splitlines())
        fields = {key: value.split() for key, _, value in lines}
        self._pids = [int(pid) for pid in fields.get(b"NSpid", ())]
        self.user = int(fields[b"Uid"][0]) if b"Uid" in fields else -1
        """The real user id."""
        self.parent = int(fields[b"PPid"][0]) if b"PPid" in fields else 0
        """As `/proc` numbers it."""
        self.state = fields[b"State"][0].decode() if self._pids else "X"
        """One letter, as in `/proc/PID/stat`."""
        self.alive = self.state not in "ZX"
        """Whether it can be read, and is neither a zombie nor dead."""

    @property
    def pid(self) -> int:
        """Its pid in the namespace of this process, which `/proc` may number otherwise."""
        return self._pids[min(self.depth, Status("self").depth) - 1]

    @property
    def is_stopped(self) -> bool:
        """Whether it is stopped, by a signal or by a process that traces it."""
        return self.state in "Tt"

    @property
    def depth(self) -> int:
        """How many PID namespaces it is in, of those that `/proc` shows."""
        return len(self._pids)

    @property
    def in_our_namespace(self) -> bool:
        """Whether it is in the PID namespace of this process.

        `/proc` shows the processes of the namespace that it was mounted for, and of those below. A
        process has one pid for each namespace from that on. Where `/proc` is that of our own
        namespace, that settles it, also for processes whose links cannot be read.
        """
        if self.depth != Status("self").depth:
            return False
        return self.depth == 1 or _namespace(self.name) == _namespace("self") is not None


def _namespace(name: int | str) -> str | None:
    try:
        return os.readlink(f"/proc/{name}/ns/pid")
    except OSError:
        return None


def read(name: int | str, file: str) -> bytes:
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


class Swept:
    """What a sweep has done."""

    def __init__(self) -> None:
        self.killed: set[int] = set()
        self.left: dict[int, str] = {}
        """By pid, why a process could not be killed."""
        self.complete = False
        """Whether nothing more was found in the end."""


def sweep(mark: Mark) -> Swept:
    """Kill what belongs to a mark, and look again until there is nothing more, at most 20 times.

    A process that may not be killed is left, and keeps no other from being killed. Raises OSError
    if the processes cannot be listed, or this process is out of descriptors or memory.
    """
    swept = Swept()
    for _ in range(_SWEEPS):
        found = [each for each in mark.processes() if each.pid not in swept.left]
        for each in found:
            _kill(each, mark, swept)
        if not found:
            swept.complete = not swept.left
            break
        time.sleep(_SWEEP_PAUSE)
    return swept


def _kill(found: Status, mark: Mark, swept: Swept) -> None:
    """Kill a process if it is still the one that was found."""
    try:
        pidfd = os.pidfd_open(found.pid)
    except OSError:
        return
    try:
        # Looked at again, now that the pidfd keeps to this process.
        if mark.look_at(found.name) is not None:
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
            swept.killed.add(found.pid)
    except ProcessLookupError:
        pass
    except OSError as exc:
        swept.left[found.pid] = exc.strerror or str(exc)
    finally:
        os.close(pidfd)
