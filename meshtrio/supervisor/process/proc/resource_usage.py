"""CPU time and memory of process groups."""

from __future__ import annotations

from collections.abc import Iterable

import attrs
import trio

from meshtrio.supervisor.process.proc import procfs
from meshtrio.supervisor.process.proc.proc_scanner import get_scanner
from meshtrio.supervisor.process.proc.procfs import ProcessStat
from meshtrio.util.processes import read_proc_file


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


def read_own_rss() -> int:
    """Return the resident memory of this process in bytes. Raises OSError."""
    content = read_proc_file("self", "statm")
    try:
        return int(content.split()[1]) * procfs.PAGE_SIZE
    except (ValueError, IndexError):
        raise OSError(f"/proc/self/statm has {content!r}") from None
