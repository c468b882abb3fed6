"""The session of this process (setsid(2))."""

from __future__ import annotations

import os
from pathlib import Path


def session_parent_pid() -> int:
    """Return the parent of this process's session leader: in a plugin, the pid of the mesh.

    A mesh starts each plugin in a session of its own, whose leader may be a shell that has started
    this process.
    """
    try:
        stat = Path(f"/proc/{os.getsid(0)}/stat").read_bytes()
        # The command name in parentheses may contain anything.
        return int(stat.rpartition(b")")[2].split()[1])
    except (OSError, ValueError, IndexError):
        return os.getppid()
