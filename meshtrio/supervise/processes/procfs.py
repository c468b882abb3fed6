"""What /proc tells of all processes (proc(5))."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path


def stats() -> Iterator[list[str]]:
    """The fields of each process's `stat`, from its state on: number 3 in the manual is [0].

    Raises OSError where /proc itself cannot be read, for want of a descriptor above all.
    """
    for name in os.listdir("/proc"):
        if name.isdigit():
            with contextlib.suppress(FileNotFoundError, ProcessLookupError, PermissionError):
                # What follows the name, which may hold anything.
                yield Path("/proc", name, "stat").read_text().rpartition(")")[2].split()
