"""Scans of /proc, made in a thread, and shared by all tasks that need one at the same time.

Reading the table of processes takes about 25 µs for each process of the machine. Done in the event
loop, by each task that waits for a process group, it would take all of a mesh's time.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from pathlib import Path

import trio

from meshtrio.supervise.processes import procfs
from meshtrio.supervise.processes.procfs import Stat
from meshtrio.threads import ThreadLimiter

_REST = 9.0
"""Times the duration of a scan that pass before another one is begun for waiting tasks, so that
scans take at most a tenth of one processor."""
_MAX_REST = 1.0
_PAUSE = 0.01
"""Seconds before the next scan of a group, at least."""
_NO_DESCRIPTOR = 0.1
"""Seconds before the next attempt if this process has no descriptors left to look with."""


_cgroup_limiter = ThreadLimiter(4)


class Scans:
    """The scans of one trio run."""

    def __init__(self) -> None:
        self._lock = trio.Lock()
        self._limiter = trio.CapacityLimiter(1)
        self._begun = 0
        """Number of scans that were begun."""
        self._finished = 0
        """The number of the last one that was finished."""
        self._found: Sequence[Stat] = ()
        self._next = -math.inf
        """When the next one may begin that is not urgent."""

    async def stats(self, *, urgent: bool = True) -> Sequence[Stat]:
        """Return the stat of every process, from a scan that was begun after the call.

        Args:
            urgent: Begin at once. Otherwise scans rest in between, for up to a second, as befits
                tasks that scan again and again.

        Raises:
            OSError: /proc cannot be listed, or this process is out of descriptors or memory.
            RuntimeError: No thread can be started.
        """
        if not urgent:
            await trio.sleep_until(self._next)
        wanted = self._begun + 1
        async with self._lock:
            if self._finished < wanted:
                await self._scan()
            return self._found

    async def _scan(self) -> None:
        self._begun += 1
        number, began = self._begun, trio.current_time()
        found = await trio.to_thread.run_sync(
            list, procfs.stats(), abandon_on_cancel=True, limiter=self._limiter
        )
        now = trio.current_time()
        self._next = now + min((now - began) * _REST, _MAX_REST)
        self._found, self._finished = found, number


_scans: trio.lowlevel.RunVar[Scans] = trio.lowlevel.RunVar("meshtrio scans of /proc")


def scans() -> Scans:
    """The scans of this trio run."""
    try:
        return _scans.get()
    except LookupError:
        _scans.set(Scans())
        return _scans.get()


async def members(group: int, cgroup: Path | None = None, *, urgent: bool = True) -> list[int]:
    """Return the pids of a group's processes that are not zombies.

    Args:
        cgroup: A control group that none of them can leave. Then only its processes are looked at,
            and not all of the machine.
        urgent: As for `Scans.stats`.

    Raises:
        OSError: They cannot be looked for.
        RuntimeError: No thread can be started.
        ValueError: The control group lists what is no process.
    """
    if cgroup is None:
        found = await scans().stats(urgent=urgent)
    else:
        found = await trio.to_thread.run_sync(
            _stats_in, cgroup, abandon_on_cancel=True, limiter=_cgroup_limiter.get()
        )
    return [stat.pid for stat in found if stat.group == group and stat.alive]


def _stats_in(cgroup: Path) -> list[Stat]:
    found = []
    for pid in (cgroup / "cgroup.procs").read_bytes().split():
        try:
            stat = procfs.stat_of(int(pid))
        except (ProcessLookupError, FileNotFoundError):
            continue
        if stat is not None:
            found.append(stat)
    return found


async def wait_for_group(group: int, cgroup: Path | None = None) -> None:
    """Wait until all processes of a group have ended; the number must not be another's meanwhile.

    The kernel does not report the end of a group. Each process that a scan has found is waited for
    by its pidfd, one after the other; once all have ended, another scan looks for those that were
    started in between. So there are as many scans as generations of processes, and one descriptor.
    """
    urgent = True
    while True:
        try:
            found = await members(group, cgroup, urgent=urgent)
        except (OSError, RuntimeError, ValueError):
            await trio.sleep(_NO_DESCRIPTOR)
            continue
        if not found:
            return
        for pid in found:
            await _wait_for_member(group, pid)
        await trio.sleep(_PAUSE)
        urgent = False


async def _wait_for_member(group: int, pid: int) -> None:
    """Wait until a process has ended, if it is still the one that was found in the group."""
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    except OSError:
        await trio.sleep(_NO_DESCRIPTOR)
        return
    try:
        if os.getpgid(pid) == group:
            await trio.lowlevel.wait_readable(pidfd)
    except ProcessLookupError:
        return
    finally:
        os.close(pidfd)
