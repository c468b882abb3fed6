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

from meshtrio.supervisor.process.proc import procfs
from meshtrio.supervisor.process.proc.procfs import ProcessStat
from meshtrio.util.pidfd import open_pidfd

_REST_FACTOR = 9.0
"""Times the duration of a scan that pass before another one is begun for waiting tasks, so that
scans take at most a tenth of one processor."""
_MAX_REST = 1.0
_MIN_SCAN_INTERVAL = 0.01
"""Seconds before the next scan of a group, at least."""
_RETRY_DELAY = 0.1
"""Seconds before the next attempt if this process has no descriptors left to look with."""


_cgroup_limiter = trio.CapacityLimiter(4)


class ProcScanner:
    """The scans of one trio run."""

    def __init__(self) -> None:
        self._lock = trio.Lock()
        self._limiter = trio.CapacityLimiter(1)
        self._last_begun = 0
        """Number of scans that were begun."""
        self._last_finished = 0
        """The number of the last one that was finished."""
        self._stats: Sequence[ProcessStat] = ()
        self._next_scan_at = -math.inf
        """When the next one may begin that is not urgent."""

    async def read_stats(self, *, urgent: bool = True) -> Sequence[ProcessStat]:
        """Return the stat of every process, from a scan that was begun after the call.

        Args:
            urgent: Begin at once. Otherwise scans rest in between, for up to a second, as befits
                tasks that scan again and again.

        Raises:
            OSError: /proc cannot be listed, or this process is out of descriptors or memory.
            RuntimeError: No thread can be started.
        """
        if not urgent:
            await trio.sleep_until(self._next_scan_at)
        wanted = self._last_begun + 1
        async with self._lock:
            if self._last_finished < wanted:
                await self._scan()
            return self._stats

    async def _scan(self) -> None:
        self._last_begun += 1
        number, began = self._last_begun, trio.current_time()
        found = await trio.to_thread.run_sync(
            list, procfs.iter_stats(), abandon_on_cancel=True, limiter=self._limiter
        )
        now = trio.current_time()
        self._next_scan_at = now + min((now - began) * _REST_FACTOR, _MAX_REST)
        self._stats, self._last_finished = found, number


_scanner_var: trio.lowlevel.RunVar[ProcScanner] = trio.lowlevel.RunVar("meshtrio scans of /proc")


def get_scanner() -> ProcScanner:
    """The scans of this trio run."""
    try:
        return _scanner_var.get()
    except LookupError:
        _scanner_var.set(ProcScanner())
        return _scanner_var.get()


async def find_group_pids(
    pgrp: int, cgroup: Path | None = None, *, urgent: bool = True
) -> list[int]:
    """Return the pids of a group's processes that are not zombies.

    Args:
        cgroup: A control group that none of them can leave. Then only its processes are looked at,
            and not all of the machine.
        urgent: As for `ProcScanner.stats`.

    Raises:
        OSError: They cannot be looked for.
        RuntimeError: No thread can be started.
        ValueError: The control group lists what is no process.
    """
    if cgroup is None:
        found = await get_scanner().read_stats(urgent=urgent)
    else:
        found = await trio.to_thread.run_sync(
            _read_cgroup_stats, cgroup, abandon_on_cancel=True, limiter=_cgroup_limiter
        )
    return [stat.pid for stat in found if stat.pgrp == pgrp and stat.is_alive]


def _read_cgroup_stats(cgroup: Path) -> list[ProcessStat]:
    found = []
    for pid in (cgroup / "cgroup.procs").read_bytes().split():
        try:
            stat = procfs.read_stat(int(pid))
        except (ProcessLookupError, FileNotFoundError):
            continue
        if stat is not None:
            found.append(stat)
    return found


async def wait_for_group(pgrp: int, cgroup: Path | None = None) -> None:
    """Wait until all processes of a group have ended; the number must not be another's meanwhile.

    The kernel does not report the end of a group. Each process that a scan has found is waited for
    by its pidfd, one after the other; once all have ended, another scan looks for those that were
    started in between. So there are as many scans as generations of processes, and one descriptor.
    """
    urgent = True
    while True:
        try:
            found = await find_group_pids(pgrp, cgroup, urgent=urgent)
        except (OSError, RuntimeError, ValueError):
            await trio.sleep(_RETRY_DELAY)
            continue
        if not found:
            return
        for pid in found:
            await _wait_for_member(pgrp, pid)
        await trio.sleep(_MIN_SCAN_INTERVAL)
        urgent = False


async def _wait_for_member(pgrp: int, pid: int) -> None:
    """Wait until a process has ended, if it is still the one that was found in the group."""
    try:
        with open_pidfd(pid) as pidfd:
            if os.getpgid(pid) == pgrp:
                await trio.lowlevel.wait_readable(pidfd)
    except ProcessLookupError:
        return
    except OSError:
        await trio.sleep(_RETRY_DELAY)
