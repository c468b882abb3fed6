"""What process groups use of the machine."""

from __future__ import annotations

import os
from collections.abc import Iterable

import attrs
import trio

from meshtrio.supervise.processes import procfs
from meshtrio.supervise.processes.procfs import Stat
from meshtrio.supervise.processes.scans import scans

_PAGE = os.sysconf("SC_PAGE_SIZE")
_TICKS = os.sysconf("SC_CLK_TCK")


@attrs.frozen
class Usage:
    """CPU time in seconds, and bytes in memory."""

    cpu: float = 0.0
    resident: int = 0


async def usage_by_group() -> dict[int, Usage]:
    """Return what the processes there are of each process group use.

    Raises:
        OSError: /proc cannot be read.
        RuntimeError: No thread can be started.
    """
    return await trio.to_thread.run_sync(_sum_up, await scans().stats(), abandon_on_cancel=True)


def _sum_up(stats: Iterable[Stat]) -> dict[int, Usage]:
    found: dict[int, Usage] = {}
    for stat in stats:
        before = found.get(stat.group, Usage())
        found[stat.group] = Usage(
            before.cpu + stat.ticks / _TICKS, before.resident + stat.pages * _PAGE
        )
    return found


async def resident_by_group() -> dict[int, int]:
    """Return the bytes in memory of each process group. Raises as `usage_by_group` does."""
    return {group: usage.resident for group, usage in (await usage_by_group()).items()}


def own_resident() -> int:
    """The bytes that this process has in memory. Raises OSError."""
    return procfs.resident_pages_of_self() * _PAGE
