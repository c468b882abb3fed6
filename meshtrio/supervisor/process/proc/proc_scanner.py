"""Scans /proc in a thread, and shares each scan among all tasks that need one at the same time.

Reading the process table takes about 25 µs for each process of the machine. In the event loop, for
each task that waits for a process group, it would use up all of a mesh's time.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from pathlib import Path

import trio

from meshtrio.supervisor.process.proc import procfs
from meshtrio.supervisor.process.proc.procfs import ProcessStat
from meshtrio.util.concurrency import PerRun
from meshtrio.util.descriptors import closing_descriptor
from meshtrio.util.worker_threads import ThreadLimiter

_REST_FACTOR = 9.0
"""Minimum pause between scans for waiting tasks, as a multiple of the duration of the last one, so
that scans take at most a tenth of one CPU."""
_MAX_REST = 1.0
"""Maximum number of seconds of that pause."""
_MIN_SCAN_INTERVAL = 0.01
"""Minimum number of seconds between scans for the same group."""
_RETRY_DELAY = 0.1
"""Seconds until the next attempt if a scan has failed, most likely for lack of descriptors."""

_scan_limiter, _cgroup_limiter = ThreadLimiter(1), ThreadLimiter(4)


class ProcScanner:
    """The scans of one trio run."""

    def __init__(self) -> None:
        self._lock = trio.Lock()
        self._last_begun = 0
        """Number of the scan that was begun last."""
        self._last_finished = 0
        """Number of the scan that was finished last."""
        self._stats: Sequence[ProcessStat] = ()
        self._next_scan_at = -math.inf
        """Time at which the next scan that is not urgent may begin."""

    async def read_stats(self, *, urgent: bool = True) -> Sequence[ProcessStat]:
        """Return the stat of every process, from a scan that was begun after the call.

        If it is not urgent, up to a second passes between two scans, which suits tasks that scan
        repeatedly.

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
        found: list[ProcessStat] = await _scan_limiter.run(list, procfs.iter_stats())
        now = trio.current_time()
        self._next_scan_at = now + min((now - began) * _REST_FACTOR, _MAX_REST)
        self._stats, self._last_finished = found, number


get_scanner = PerRun(ProcScanner).get
"""Returns the scanner of this trio run."""


async def find_group_pids(
    pgrp: int, cgroup: Path | None = None, *, urgent: bool = True
) -> list[int]:
    """Return the pids of a group's processes that are not zombies.

    If there is a cgroup, which none of them can leave, its processes alone are searched.

    Raises:
        OSError: /proc or the cgroup cannot be read.
        RuntimeError: No thread can be started.
        ValueError: The cgroup's list of processes is malformed.
    """
    if cgroup is None:
        found = await get_scanner().read_stats(urgent=urgent)
    else:
        found = await _cgroup_limiter.run(_read_cgroup_stats, cgroup)
    return [stat.pid for stat in found if stat.pgrp == pgrp and stat.is_alive]


def _read_cgroup_stats(cgroup: Path) -> list[ProcessStat]:
    pids = (cgroup / "cgroup.procs").read_bytes().split()
    return list(filter(None, map(procfs.read_stat, map(int, pids))))


async def wait_for_group(pgrp: int, cgroup: Path | None = None) -> None:
    """Wait until all processes of a group have exited. Its id must not be reused meanwhile.

    The kernel does not report the end of a group. The processes that a scan has found are waited
    for by pidfd, one after the other; then another scan looks for those that were started in the
    meantime. That takes as many scans as generations of processes, and one descriptor.
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
    """Wait until a process has exited, if it is still in the group in which it was found."""
    try:
        with closing_descriptor(os.pidfd_open(pid)) as pidfd:
            if os.getpgid(pid) == pgrp:
                await trio.lowlevel.wait_readable(pidfd)
    except ProcessLookupError:
        return
    except OSError:
        await trio.sleep(_RETRY_DELAY)
