"""The resident memory of processes, now and at its highest."""

from __future__ import annotations

import re
from pathlib import Path

_LINE = re.compile(rb"^(VmHWM|VmRSS):\s+(\d+) kB$", re.MULTILINE)


def reset_peak(pid: int) -> None:
    """Have the kernel forget how much memory a process once had (proc(5), clear_refs)."""
    Path(f"/proc/{pid}/clear_refs").write_text("5")


def resident_and_peak(pid: int) -> tuple[float, float]:
    """Return MiB that are resident now, and the most since `reset_peak`. Zeros for no process."""
    try:
        found = dict(_LINE.findall(Path(f"/proc/{pid}/status").read_bytes()))
    except (FileNotFoundError, ProcessLookupError):
        return 0.0, 0.0
    return int(found.get(b"VmRSS", 0)) / 1024, int(found.get(b"VmHWM", 0)) / 1024
