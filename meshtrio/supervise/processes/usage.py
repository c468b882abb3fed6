"""What process groups use of the machine."""

from __future__ import annotations

import os

import attrs

from meshtrio.supervise.processes import procfs

_PAGE = os.sysconf("SC_PAGE_SIZE")
_TICKS = os.sysconf("SC_CLK_TCK")


@attrs.frozen
class Usage:
    """CPU time in seconds, and bytes in memory."""

    cpu: float = 0.0
    resident: int = 0


def usage_by_group() -> dict[int, Usage]:
    """What the processes there are of each process group use. Raises OSError."""
    found: dict[int, Usage] = {}
    for stat in procfs.stats():
        before = found.get(stat.group, Usage())
        found[stat.group] = Usage(
            before.cpu + stat.ticks / _TICKS, before.resident + stat.pages * _PAGE
        )
    return found


def resident_by_group() -> dict[int, int]:
    """Of that, the bytes in memory. Raises OSError."""
    return {group: usage.resident for group, usage in usage_by_group().items()}


def own_resident() -> int:
    """The bytes that this process has in memory. Raises OSError."""
    return procfs.resident_pages_of_self() * _PAGE
