"""Kills the processes that a plugin has left outside its process group; reports unkillable ones.

A process belongs to a plugin if it carries a mark of the plugin's run (`process_marker`), or is in
the session that the plugin's first process led. One pass over /proc, in a thread, looks for the
processes of all plugins that have exited at the same time.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import signal
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

import attrs
import trio

from meshtrio import contract
from meshtrio.supervisor.process.cleanup import process_marker
from meshtrio.supervisor.process.cleanup.cgroup import Cgroups
from meshtrio.supervisor.process.cleanup.mesh_run import PROC_PASS_TIMEOUT, MeshRun
from meshtrio.supervisor.process.cleanup.zombie_reaper import reap_pids
from meshtrio.supervisor.process.proc import procfs
from meshtrio.supervisor.process.proc.procfs import ProcessStat
from meshtrio.util.processes import ProcessInfo, read_proc_file, send_signals
from meshtrio.util.users import find_user_name
from meshtrio.util.worker_threads import ThreadLimiter

_log = logging.getLogger("meshtrio.mesh")

_MAX_ROUNDS = 20
_ROUND_PAUSE = 0.05
"""Seconds between two rounds: a killed process exits with a delay and may have forked before."""
_MAX_PASSES = 3


@attrs.frozen
class UnkillableProcess:
    """A process that the mesh could not kill."""

    pid: int
    name: str
    """Its name as text for people (proc(5), comm)."""
    reason: str
    """Why it could not be killed."""
    start_ticks: int = 0
    """Its start time, as `ProcessStat.start_ticks`; with the pid it identifies the process."""

    @property
    def is_running(self) -> bool:
        """Whether it is still alive."""
        with contextlib.suppress(OSError):
            stat = procfs.read_stat(self.pid)
            return stat is not None and stat.start_ticks == self.start_ticks and stat.is_alive
        return False

    def __str__(self) -> str:
        return f"pid {self.pid} ({self.name}) cannot be killed, left running: {self.reason}"


def _describe_unkillable(stat: ProcessStat) -> UnkillableProcess:
    """Describe a process that was not killed, and why it was not."""
    process = ProcessInfo(stat.pid)
    reason = _find_unkillable_reason(stat, process)
    return UnkillableProcess(stat.pid, process.comm or "?", reason, stat.start_ticks)


def _find_unkillable_reason(stat: ProcessStat, process: ProcessInfo) -> str:
    try:
        os.kill(stat.pid, 0)
    except PermissionError:
        user = "another user"
        if process.uids:
            user = f"user {find_user_name(process.uids[0]) or process.uids[0]}"
        return f"it runs as {user}, whose processes this mesh may not signal"
    except OSError:
        pass
    if (tracer := procfs.find_tracer(stat.pid)) is not None:
        return f"{tracer} traces it"
    if stat.state != "D":
        return "it did not exit after SIGKILL"
    return "it is blocked in the kernel, as by a disk or network filesystem that does not respond"


def get_boot_ticks() -> float:
    """Return the current time on the clock of `ProcessStat.start_ticks`, not rounded."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) * procfs.TICKS_PER_SECOND


@attrs.frozen
class RunIdentity:
    """The attributes by which the processes of a process run are recognized."""

    launch_id: str
    started_ticks: float
    """Start time of the run, as `get_boot_ticks`; none of its processes is older."""
    session_id: int | None = None
    """The id of the session that its first process led; None if none was started."""
    session_end_ticks: float = math.inf
    """Time at which the session's leader was reaped, after which its id may be reused."""

    def has_in_session(self, stat: ProcessStat) -> bool:
        """Whether a process is in its session."""
        return stat.session == self.session_id and stat.start_ticks < self.session_end_ticks


@attrs.frozen
class LeftoverReport:
    """The processes of one process run that were found after its exit."""

    killed: int = 0
    """Number of processes outside of its process group that were killed."""
    unkillable: tuple[UnkillableProcess, ...] = ()
    """The processes that could not be killed."""


@attrs.define(eq=False)
class LeftoverKiller:
    """Kills what plugins have left, in one pass for all that have exited meanwhile.

    Reading the environment of a process waits for the filesystem that its memory is mapped from,
    which may never respond. So a pass may take `pass_timeout` seconds; the process is skipped then.
    """

    mesh_run: MeshRun
    cgroups: Cgroups | None = None
    _pass_timeout: float = PROC_PASS_TIMEOUT
    _lock: trio.Lock = attrs.field(factory=trio.Lock)
    _limiter: ThreadLimiter = attrs.field(factory=lambda: ThreadLimiter(_MAX_PASSES))
    _pending: dict[str, RunIdentity] = attrs.field(factory=dict)
    _reports: dict[str, LeftoverReport] = attrs.field(factory=dict)
    unreadable: set[tuple[int, int]] = attrs.field(factory=set)
    """Processes, by pid and start time, whose environment could not be read in time."""

    async def kill_leftovers(self, identity: RunIdentity) -> LeftoverReport:
        """Kill what a process run has left, and report it."""
        self._pending[identity.launch_id] = identity
        async with self._lock:
            if identity.launch_id in self._pending:
                wanted, self._pending = self._pending, {}
                self._reports |= await self._kill_all(tuple(wanted.values()))
        self.mesh_run.run_limits.pop(identity.launch_id, None)
        return self._reports.pop(identity.launch_id, LeftoverReport())

    async def _kill_all(self, identities: Sequence[RunIdentity]) -> Mapping[str, LeftoverReport]:
        for _ in range(_MAX_PASSES):
            attempt = _KillPass(self, identities)
            try:
                with trio.move_on_after(self._pass_timeout):
                    return await self._limiter.run(attempt.run)
            except (OSError, RuntimeError) as exc:
                _log.warning("cannot look for processes that plugins have left: %s", exc)
                return {}
            if attempt.process_being_read is not None:
                text = "cannot read the environment of pid %d: the kernel does not respond; skipped"
                _log.warning(text, attempt.process_being_read[0])
                self.unreadable.add(attempt.process_being_read)
        return {}


class _KillPass:
    """One pass for several process runs, in a thread."""

    def __init__(self, killer: LeftoverKiller, identities: Sequence[RunIdentity]) -> None:
        self.process_being_read: tuple[int, int] | None = None
        """Pid and start time of the process whose environment is being read."""
        self._cgroups, self._identities = killer.cgroups, identities
        self._marker = killer.mesh_run.marker_of_children
        limits, name = killer.mesh_run.run_limits, contract.MESH_LAUNCH_ID
        self._limits = {limits.get(each.launch_id): each for each in identities}
        self._variables = {f"{name}={each.launch_id}".encode(): each for each in identities}
        self._min_start_ticks = min(math.floor(each.started_ticks) for each in identities)
        self._unreadable = frozenset(killer.unreadable)

    def run(self) -> dict[str, LeftoverReport]:
        """Kill in rounds until none finds a process that can be killed; report what was found."""
        cgroups, keys = self._cgroups, [each.launch_id for each in self._identities]
        in_cgroup = {key: 0 if cgroups is None else cgroups.remove(key) for key in keys}
        killed: set[tuple[str, int]] = set()
        for _ in range(_MAX_ROUNDS):
            found = list(self._find_leftovers())
            killed_now = {(key, stat.pid) for key, stat in found if self._kill(stat)}
            if not killed_now:
                break
            killed |= killed_now
            time.sleep(_ROUND_PAUSE)
        left = {(key, stat.pid): _describe_unkillable(stat) for key, stat in found}
        reap_pids(pid for _, pid in killed)
        counts = Counter(key for key, _ in killed - left.keys())
        return {
            key: LeftoverReport(
                in_cgroup[key] + counts[key],
                tuple(each for (owner, _), each in left.items() if owner == key),
            )
            for key in keys
        }

    def _find_leftovers(self) -> Iterator[tuple[str, ProcessStat]]:
        """Find the live processes of each process run, with its launch id."""
        for stat in procfs.iter_stats():
            if stat.is_alive and stat.start_ticks >= self._min_start_ticks:
                identity = self._match_identity(stat)
                if identity is not None:
                    yield identity.launch_id, stat

    def _match_identity(self, stat: ProcessStat) -> RunIdentity | None:
        for each in self._identities:
            if each.has_in_session(stat):
                return each
        limit = process_marker.read_rss_limit(stat.pid)
        identity = self._limits.get(limit) or self._match_environment(stat)
        found = identity and ProcessInfo(stat.pid)
        return identity if found and self._marker.can_belong(found) else None

    def _match_environment(self, stat: ProcessStat) -> RunIdentity | None:
        """Find the process run that is named in the environment of a process."""
        process = (stat.pid, stat.start_ticks)
        if process in self._unreadable:
            return None
        self.process_being_read = process
        entries = read_proc_file(stat.pid, "environ").split(b"\0")
        self.process_being_read = None
        return next((self._variables[each] for each in entries if each in self._variables), None)

    def _kill(self, stat: ProcessStat) -> bool:
        """Kill a process if it is the one that was found; False if it may not be signalled."""

        def is_same() -> bool:
            now = procfs.read_stat(stat.pid)
            return now is not None and now.start_ticks == stat.start_ticks

        try:
            send_signals(stat.pid, (signal.SIGKILL,), is_same)
        except PermissionError:
            return False
        return True
