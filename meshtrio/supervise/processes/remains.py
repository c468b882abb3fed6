"""What a plugin leaves outside its process group, and what cannot be killed: found and reported.

A process is a plugin's if it carries a mark of the plugin's launch (`marks`), or is in the session
that the plugin's first process has led. All plugins that have ended at the same time are
looked for in one pass over /proc, in a thread.
"""

from __future__ import annotations

import logging
import math
import os
import pwd
import signal
import time
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence

import attrs
import trio

from meshtrio import contract
from meshtrio.supervise.processes import marks, procfs
from meshtrio.supervise.processes.cgroup import Cgroups
from meshtrio.supervise.processes.launch import Launch
from meshtrio.supervise.processes.orphans import reap_killed
from meshtrio.supervise.processes.procfs import Stat

_log = logging.getLogger("meshtrio.mesh")

_ROUNDS = 20
_ROUND_PAUSE = 0.05
"""A killed process takes a moment to end, and may have started another before."""
_ATTEMPT_WITHIN = 10.0
"""Seconds for a pass over /proc. Reading the environment of a process waits for the filesystem that
its memory is mapped from, which may never answer; such a process is left out from then on."""
_ATTEMPTS = 3
_TICKS = os.sysconf("SC_CLK_TCK")


@attrs.frozen
class LeftProcess:
    """A process that the mesh wanted to kill and could not."""

    pid: int
    name: str
    why: str
    started: int = 0
    """As `Stat.started`: with the pid it identifies the process."""

    @property
    def runs(self) -> bool:
        """Whether it is still there."""
        try:
            stat = procfs.stat_of(self.pid)
        except OSError:
            return False
        return stat is not None and stat.started == self.started and stat.alive

    def __str__(self) -> str:
        return f"pid {self.pid} ({self.name}) cannot be killed, left running: {self.why}"


def left_process(stat: Stat) -> LeftProcess:
    """Find out why a process cannot be killed."""
    status = procfs.status_of(stat.pid)
    name = "?" if status is None else status.name
    return LeftProcess(stat.pid, name, _why_left(stat, status), stat.started)


def _why_left(stat: Stat, status: procfs.Status | None) -> str:
    try:
        os.kill(stat.pid, 0)
    except PermissionError:
        user = "another user" if status is None else f"user {_user(status.uids[0])}"
        return f"it runs as {user}, whose processes this mesh may not signal"
    except OSError:
        pass
    if (tracer := procfs.tracer_of(stat.pid)) is not None:
        return f"{tracer} traces it"
    if stat.state == "D":
        return "it waits in the kernel, as for a disk or a network filesystem that does not answer"
    return "it has not ended after SIGKILL"


def _user(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def ticks_now() -> float:
    """The time of the clock that `Stat.started` is of, which is rounded down there."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) * _TICKS


@attrs.frozen
class RunIdentity:
    """What the processes of one launch are known by."""

    launch_id: str
    since: float
    """When that was started, by `ticks_now`; nothing that it has started is older."""
    session: int | None = None
    """The id of the session that its first process has led; None if there was no process."""
    until: float = math.inf
    """When the session's id may have become another's: when its leader was reaped."""

    def leads(self, stat: Stat) -> bool:
        """Whether a process is in its session."""
        return stat.session == self.session and stat.started < self.until


@attrs.frozen
class Remains:
    """What was found of one launch."""

    killed: int = 0
    """Number of processes outside its process group that were killed."""
    left: tuple[LeftProcess, ...] = ()
    """Those that could not be."""


_NONE = Remains()


class Sweeper:
    """Finds and kills what plugins have left, for all that have ended meanwhile at once."""

    def __init__(self, launch: Launch, cgroups: Cgroups | None = None) -> None:
        self._launch = launch
        self._cgroups = cgroups
        self._lock = trio.Lock()
        self._limiter = trio.CapacityLimiter(_ATTEMPTS)
        self._wanted: dict[str, RunIdentity] = {}
        self._found: dict[str, Remains] = {}
        self._unreadable: set[tuple[int, int]] = set()
        """Processes whose environment could not be read in time."""

    async def sweep(self, identity: RunIdentity) -> Remains:
        """Kill what a launch has left, and return what that was."""
        self._wanted[identity.launch_id] = identity
        async with self._lock:
            if identity.launch_id in self._wanted:
                wanted, self._wanted = self._wanted, {}
                self._found |= await self._sweep_all(tuple(wanted.values()))
        self._launch.forget_run(identity.launch_id)
        return self._found.pop(identity.launch_id, _NONE)

    async def _sweep_all(self, identities: Sequence[RunIdentity]) -> Mapping[str, Remains]:
        for _ in range(_ATTEMPTS):
            unreadable = frozenset(self._unreadable)
            attempt = _Sweep(self._launch, identities, self._cgroups, unreadable)
            try:
                with trio.move_on_after(_ATTEMPT_WITHIN):
                    return await trio.to_thread.run_sync(
                        attempt.run, abandon_on_cancel=True, limiter=self._limiter
                    )
            except (OSError, RuntimeError) as exc:
                _log.warning("cannot look for what plugins have left behind: %s", exc)
                return {}
            if attempt.reading is not None:
                text = "cannot read the environment of pid %d: the kernel does not answer"
                _log.warning(text, attempt.reading[0])
                self._unreadable.add(attempt.reading)
        return {}


class _Sweep:
    """One pass for some launches, in a thread."""

    def __init__(
        self,
        launch: Launch,
        identities: Sequence[RunIdentity],
        cgroups: Cgroups | None,
        unreadable: Collection[tuple[int, int]],
    ) -> None:
        self.reading: tuple[int, int] | None = None
        """The pid, and the time of its start, of the process whose environment is being read."""
        self._launch = launch
        self._identities = identities
        self._limits = {launch.limit_of_run(each.launch_id): each for each in identities}
        self._limits.pop(0, None)
        self._variables = {
            f"{contract.MESH_LIFE}={identity.launch_id}".encode(): identity
            for identity in identities
        }
        self._since = min(math.floor(identity.since) for identity in identities)
        self._cgroups = cgroups
        self._unreadable = unreadable

    def run(self) -> dict[str, Remains]:
        killed: defaultdict[str, set[int]] = defaultdict(set)
        found: dict[str, list[Stat]] = {}
        inside = {
            identity.launch_id: self._remove_cgroup(identity) for identity in self._identities
        }
        for _ in range(_ROUNDS):
            found = self._look()
            mortal = False
            for launch_id, stats in found.items():
                for stat in stats:
                    if self._kill(stat):
                        mortal = True
                        killed[launch_id].add(stat.pid)
            if not mortal:
                break
            time.sleep(_ROUND_PAUSE)
        left = {key: [left_process(stat) for stat in stats] for key, stats in found.items()}
        for launch_id, pids in killed.items():
            reap_killed(pids)
            pids -= {each.pid for each in left.get(launch_id, ())}
        return {
            identity.launch_id: Remains(
                inside[identity.launch_id] + len(killed[identity.launch_id]),
                tuple(left.get(identity.launch_id, ())),
            )
            for identity in self._identities
        }

    def _remove_cgroup(self, identity: RunIdentity) -> int:
        return 0 if self._cgroups is None else self._cgroups.remove(identity.launch_id)

    def _look(self) -> dict[str, list[Stat]]:
        """The processes that there are of each launch."""
        found: defaultdict[str, list[Stat]] = defaultdict(list)
        for stat in procfs.stats():
            if stat.alive and stat.started >= self._since:
                identity = self._identity_of(stat)
                if identity is not None:
                    found[identity.launch_id].append(stat)
        return dict(found)

    def _identity_of(self, stat: Stat) -> RunIdentity | None:
        for each in self._identities:
            if each.leads(stat):
                return each
        identity = self._limits.get(marks.soft_limit(stat.pid)) or self._identity_in(stat)
        if identity is None or not self._launch.may_own(marks.Status(stat.pid)):
            return None
        return identity

    def _identity_in(self, stat: Stat) -> RunIdentity | None:
        """The launch that is named in the environment of a process."""
        about = (stat.pid, stat.started)
        if about in self._unreadable:
            return None
        self.reading = about
        entries = procfs.environment_of(stat.pid)
        self.reading = None
        return next((self._variables[each] for each in entries if each in self._variables), None)

    def _kill(self, stat: Stat) -> bool:
        """Kill a process, if it is still the one that was found; False if we may not signal it."""
        try:
            pidfd = os.pidfd_open(stat.pid)
        except ProcessLookupError:
            return True
        try:
            now = procfs.stat_of(stat.pid)
            if now is not None and now.started == stat.started:
                signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        except PermissionError:
            return False
        except (ProcessLookupError, FileNotFoundError):
            pass
        finally:
            os.close(pidfd)
        return True
