"""CPU time and memory of process groups."""

from __future__ import annotations

from collections.abc import Collection, Iterable

import attrs
import trio

from meshtrio.supervisor.process.proc import procfs
from meshtrio.supervisor.process.proc.proc_scanner import get_scanner
from meshtrio.supervisor.process.proc.procfs import ProcessStat
from meshtrio.util.processes import read_proc_file
from meshtrio.util.worker_threads import ThreadLimiter

_PSS_TIMEOUT = 1.0
_pss_limiter = ThreadLimiter(2)


@attrs.frozen
class ResourceUsage:
    """The resources that a process group uses."""

    cpu_time: float = 0.0
    """CPU time in seconds."""
    rss: int = 0
    """Resident memory in bytes."""


async def read_usage_by_group() -> dict[int, ResourceUsage]:
    """Return the resource usage of all process groups, by group id.

    Raises:
        OSError: /proc cannot be read.
        RuntimeError: No thread can be started.
    """
    stats = await get_scanner().read_stats()
    return await trio.to_thread.run_sync(_sum_by_group, stats, abandon_on_cancel=True)


def _sum_by_group(stats: Iterable[ProcessStat]) -> dict[int, ResourceUsage]:
    found: dict[int, ResourceUsage] = {}
    for stat in stats:
        before = found.get(stat.pgrp, ResourceUsage())
        found[stat.pgrp] = ResourceUsage(
            before.cpu_time + stat.cpu_ticks / procfs.TICKS_PER_SECOND,
            before.rss + stat.rss_pages * procfs.PAGE_SIZE,
        )
    return found


async def read_rss_by_group() -> dict[int, int]:
    """Return the resident memory of all process groups, in bytes; see `read_usage_by_group`."""
    return {group: usage.rss for group, usage in (await read_usage_by_group()).items()}


async def read_pss_by_group(groups: Collection[int]) -> dict[int, int]:
    """Return the proportional set size of some process groups, in bytes, by group id.

    A page that several processes share counts for each of them by its share. The kernel walks the
    page tables of each process for that, which may wait for a filesystem that its memory is mapped
    from. Groups that cannot be read are omitted, and all of them if that takes too long.

    Raises:
        OSError: /proc cannot be read.
        RuntimeError: No thread can be started.
    """
    stats = [stat for stat in await get_scanner().read_stats() if stat.pgrp in groups]
    with trio.move_on_after(_PSS_TIMEOUT if stats else 0):
        return await _pss_limiter.run(_sum_pss, stats)
    return {}


def _sum_pss(stats: Iterable[ProcessStat]) -> dict[int, int]:
    found: dict[int, int] = {}
    for stat in stats:
        _, _, after = read_proc_file(stat.pid, "smaps_rollup").partition(b"\nPss:")
        if after:
            found[stat.pgrp] = found.get(stat.pgrp, 0) + int(after.split(None, 1)[0]) * 1024
    return found


def read_own_rss() -> int:
    """Return the resident memory of this process in bytes. Raises OSError."""
    content = read_proc_file("self", "statm")
    try:
        return int(content.split()[1]) * procfs.PAGE_SIZE
    except (ValueError, IndexError):
        raise OSError(f"/proc/self/statm has {content!r}") from None
