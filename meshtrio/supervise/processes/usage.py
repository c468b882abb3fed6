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
    for fields in procfs.stats():
        group = int(fields[2])
        before = found.get(group, Usage())
        # Its own, and that of the children it has waited for: what they took stays counted.
        ticks = sum(map(int, fields[11:15]))
        resident = int(fields[21]) * _PAGE
        found[group] = Usage(before.cpu + ticks / _TICKS, before.resident + resident)
    return found


def resident_by_group() -> dict[int, int]:
    """Of that, the bytes in memory. Raises OSError."""
    return {group: usage.resident for group, usage in usage_by_group().items()}
