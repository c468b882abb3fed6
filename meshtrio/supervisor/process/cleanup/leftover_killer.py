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
from meshtrio.supervisor.process.cleanup import process_marker
from meshtrio.supervisor.process.cleanup.cgroup import Cgroups
from meshtrio.supervisor.process.cleanup.mesh_run import MeshRun
from meshtrio.supervisor.process.cleanup.zombie_reaper import reap_pids
from meshtrio.supervisor.process.proc import procfs
from meshtrio.supervisor.process.proc.procfs import ProcessStat
from meshtrio.util.pidfd import send_signals

_log = logging.getLogger("meshtrio.mesh")

_MAX_ROUNDS = 20
_ROUND_PAUSE = 0.05
"""A killed process takes a moment to end, and may have started another before."""
_PASS_TIMEOUT = 10.0
"""Seconds for a pass over /proc. Reading the environment of a process waits for the filesystem that
its memory is mapped from, which may never answer; such a process is left out from then on."""
_MAX_PASSES = 3


@attrs.frozen
class UnkillableProcess:
    """A process that the mesh wanted to kill and could not."""

    pid: int
    name: str
    reason: str
    start_ticks: int = 0
    """As `ProcessStat.started`: with the pid it identifies the process."""

    @property
    def is_running(self) -> bool:
        """Whether it is still there."""
        try:
            stat = procfs.read_stat(self.pid)
        except OSError:
            return False
        return stat is not None and stat.start_ticks == self.start_ticks and stat.is_alive

    def __str__(self) -> str:
        return f"pid {self.pid} ({self.name}) cannot be killed, left running: {self.reason}"


def describe_unkillable(stat: ProcessStat) -> UnkillableProcess:
    """Find out why a process cannot be killed."""
    status = procfs.read_status(stat.pid)
    name = "?" if status is None else status.name
    return UnkillableProcess(
        stat.pid, name, _find_unkillable_reason(stat, status), stat.start_ticks
    )


def _find_unkillable_reason(stat: ProcessStat, status: procfs.ProcessStatus | None) -> str:
    try:
        os.kill(stat.pid, 0)
    except PermissionError:
        user = "another user" if status is None else f"user {_user_name(status.uids[0])}"
        return f"it runs as {user}, whose processes this mesh may not signal"
    except OSError:
        pass
    if (tracer := procfs.find_tracer(stat.pid)) is not None:
        return f"{tracer} traces it"
    if stat.state == "D":
        return "it waits in the kernel, as for a disk or a network filesystem that does not answer"
    return "it has not ended after SIGKILL"


def _user_name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def get_boot_ticks() -> float:
    """The time of the clock that `ProcessStat.started` is of, which is rounded down there."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) * procfs.TICKS_PER_SECOND


@attrs.frozen
class RunIdentity:
    """What the processes of one launch are known by."""

    launch_id: str
    started_ticks: float
    """When that was started, by `get_boot_ticks`; nothing that it has started is older."""
    session_id: int | None = None
    """The id of the session that its first process has led; None if there was no process."""
    session_end_ticks: float = math.inf
    """When the session's id may have become another's: when its leader was reaped."""

    def has_in_session(self, stat: ProcessStat) -> bool:
        """Whether a process is in its session."""
        return stat.session == self.session_id and stat.start_ticks < self.session_end_ticks


@attrs.frozen
class LeftoverReport:
    """What was found of one launch."""

    killed: int = 0
    """Number of processes outside its process group that were killed."""
    unkillable: tuple[UnkillableProcess, ...] = ()
    """Those that could not be."""


_EMPTY_REPORT = LeftoverReport()


class LeftoverKiller:
    """Finds and kills what plugins have left, for all that have ended meanwhile at once."""

    def __init__(self, mesh_run: MeshRun, cgroups: Cgroups | None = None) -> None:
        self._mesh_run = mesh_run
        self._cgroups = cgroups
        self._lock = trio.Lock()
        self._limiter = trio.CapacityLimiter(_MAX_PASSES)
        self._pending: dict[str, RunIdentity] = {}
        self._reports: dict[str, LeftoverReport] = {}
        self._unreadable: set[tuple[int, int]] = set()
        """Processes whose environment could not be read in time."""

    async def kill_leftovers(self, identity: RunIdentity) -> LeftoverReport:
        """Kill what a launch has left, and return what that was."""
        self._pending[identity.launch_id] = identity
        async with self._lock:
            if identity.launch_id in self._pending:
                wanted, self._pending = self._pending, {}
                self._reports |= await self._kill_all(tuple(wanted.values()))
        self._mesh_run.remove_run(identity.launch_id)
        return self._reports.pop(identity.launch_id, _EMPTY_REPORT)

    async def _kill_all(self, identities: Sequence[RunIdentity]) -> Mapping[str, LeftoverReport]:
        for _ in range(_MAX_PASSES):
            unreadable = frozenset(self._unreadable)
            attempt = _KillPass(self._mesh_run, identities, self._cgroups, unreadable)
            try:
                with trio.move_on_after(_PASS_TIMEOUT):
                    return await trio.to_thread.run_sync(
                        attempt.run, abandon_on_cancel=True, limiter=self._limiter
                    )
            except (OSError, RuntimeError) as exc:
                _log.warning("cannot look for what plugins have left behind: %s", exc)
                return {}
            if attempt.process_being_read is not None:
                text = "cannot read the environment of pid %d: the kernel does not answer"
                _log.warning(text, attempt.process_being_read[0])
                self._unreadable.add(attempt.process_being_read)
        return {}


class _KillPass:
    """One pass for some launches, in a thread."""

    def __init__(
        self,
        mesh_run: MeshRun,
        identities: Sequence[RunIdentity],
        cgroups: Cgroups | None,
        unreadable: Collection[tuple[int, int]],
    ) -> None:
        self.process_being_read: tuple[int, int] | None = None
        """The pid, and the time of its start, of the process whose environment is being read."""
        self._mesh_run = mesh_run
        self._identities = identities
        self._limits = {mesh_run.get_run_limit(each.launch_id): each for each in identities}
        self._limits.pop(0, None)
        self._variables = {
            f"{contract.MESH_LAUNCH_ID}={identity.launch_id}".encode(): identity
            for identity in identities
        }
        self._min_start_ticks = min(math.floor(identity.started_ticks) for identity in identities)
        self._cgroups = cgroups
        self._unreadable = unreadable

    def run(self) -> dict[str, LeftoverReport]:
        killed: defaultdict[str, set[int]] = defaultdict(set)
        found: dict[str, list[ProcessStat]] = {}
        inside = {
            identity.launch_id: self._remove_cgroup(identity) for identity in self._identities
        }
        for _ in range(_MAX_ROUNDS):
            found = self._find_leftovers()
            mortal = False
            for launch_id, stats in found.items():
                for stat in stats:
                    if self._kill(stat):
                        mortal = True
                        killed[launch_id].add(stat.pid)
            if not mortal:
                break
            time.sleep(_ROUND_PAUSE)
        left = {key: [describe_unkillable(stat) for stat in stats] for key, stats in found.items()}
        for launch_id, pids in killed.items():
            reap_pids(pids)
            pids -= {each.pid for each in left.get(launch_id, ())}
        return {
            identity.launch_id: LeftoverReport(
                inside[identity.launch_id] + len(killed[identity.launch_id]),
                tuple(left.get(identity.launch_id, ())),
            )
            for identity in self._identities
        }

    def _remove_cgroup(self, identity: RunIdentity) -> int:
        return 0 if self._cgroups is None else self._cgroups.remove(identity.launch_id)

    def _find_leftovers(self) -> dict[str, list[ProcessStat]]:
        """The processes that there are of each launch."""
        found: defaultdict[str, list[ProcessStat]] = defaultdict(list)
        for stat in procfs.iter_stats():
            if stat.is_alive and stat.start_ticks >= self._min_start_ticks:
                identity = self._match_identity(stat)
                if identity is not None:
                    found[identity.launch_id].append(stat)
        return dict(found)

    def _match_identity(self, stat: ProcessStat) -> RunIdentity | None:
        for each in self._identities:
            if each.has_in_session(stat):
                return each
        identity = self._limits.get(
            process_marker.read_rss_limit(stat.pid)
        ) or self._match_environment(stat)
        if identity is None or not self._mesh_run.can_own(process_marker.ProcessInfo(stat.pid)):
            return None
        return identity

    def _match_environment(self, stat: ProcessStat) -> RunIdentity | None:
        """The launch that is named in the environment of a process."""
        about = (stat.pid, stat.start_ticks)
        if about in self._unreadable:
            return None
        self.process_being_read = about
        entries = procfs.read_environment(stat.pid)
        self.process_being_read = None
        return next((self._variables[each] for each in entries if each in self._variables), None)

    def _kill(self, stat: ProcessStat) -> bool:
        """Kill a process, if it is still the one that was found; False if we may not signal it."""

        def is_same() -> bool:
            now = procfs.read_stat(stat.pid)
            return now is not None and now.start_ticks == stat.start_ticks

        try:
            send_signals(stat.pid, (signal.SIGKILL,), is_same)
        except PermissionError:
            return False
        except (ProcessLookupError, FileNotFoundError):
            pass  # It has ended.
        return True
