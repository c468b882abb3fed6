"""Reading /proc, independent of the code under test."""

from __future__ import annotations

import os
from pathlib import Path


def read_rss(pid: int | str = "self") -> int:
    """Return the resident memory of a process in bytes."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def read_stat(pid: int) -> list[str]:
    """Return the fields of /proc/PID/stat from the state on, none for a process that is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []


def is_running(pid: int) -> bool:
    """Return whether a process exists and is no zombie."""
    fields = read_stat(pid)
    return bool(fields) and fields[0] not in "ZX"
