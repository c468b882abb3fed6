"""Makes this process a subreaper, the new parent of orphans among its descendants (prctl(2)).

When a process exits, its children become those of the nearest ancestor that is a subreaper. So
each child of `meshtrio serve` is either one that it has started or a descendant of a plugin.
"""

from __future__ import annotations

import logging
import os

from meshtrio.util.log_once import ReasonChangeLogger
from meshtrio.util.processes import read_proc_file

_failure_log = ReasonChangeLogger(logging.getLogger("meshtrio.mesh"))

_PR_SET_CHILD_SUBREAPER = 36

_is_subreaper = False


def become_subreaper() -> None:
    """Become a subreaper. Must be called before this program starts any process.

    Does nothing as PID 1, which also becomes the parent of processes that were started in its
    container from outside, nor in a program that was executed with children: their descendants
    would be attributed to plugins.
    """
    global _is_subreaper
    if os.getpid() == 1 or not _is_own_pid_namespace_in_proc() or list_child_pids():
        return
    import ctypes  # only programs that run a mesh need it

    _is_subreaper = ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0


def is_subreaper() -> bool:
    """Whether every child that this process has not started descends from a plugin."""
    return _is_subreaper


def list_child_pids() -> list[int]:
    """List the pids of all children of this process.

    The list is empty if /proc is that of another PID namespace, or cannot be read.
    """
    found: list[int] = []
    if not _is_own_pid_namespace_in_proc():
        return found
    try:
        for task in os.listdir("/proc/self/task"):
            children = read_proc_file(f"self/task/{task}", "children")
            found += map(int, children.split())
    except OSError as exc:
        _failure_log.log(exc.errno, "cannot list children of this process: %s", exc.strerror)
    else:
        _failure_log.reset()
    return found


def _is_own_pid_namespace_in_proc() -> bool:
    """Whether /proc is that of the PID namespace of this process."""
    try:
        return os.readlink("/proc/self") == str(os.getpid())
    except OSError:
        return False
