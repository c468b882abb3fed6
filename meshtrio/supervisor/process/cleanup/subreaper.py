"""A process that is given the orphans among its descendants, as `meshtrio serve` is (prctl(2)).

When a process ends, the kernel makes its children those of the nearest ancestor that is a
subreaper. So each child of a mesh is one that it has started or a descendant of a plugin.
"""

from __future__ import annotations

import logging
import os

from meshtrio.supervisor.process.cleanup import process_marker

_log = logging.getLogger("meshtrio.mesh")

_PR_SET_CHILD_SUBREAPER = 36

_is_subreaper = False


def become_subreaper() -> None:
    """Become a subreaper. To be called before this program starts any process.

    Does nothing as PID 1, to which the kernel also gives processes that were started in its
    container from outside, and in a program that was executed with children: what these start
    would be taken for a plugin's, too.
    """
    global _is_subreaper
    if os.getpid() == 1 or not _is_own_pid_namespace_in_proc() or list_child_pids():
        return
    import ctypes  # only programs that run a mesh need it

    _is_subreaper = ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0


def is_subreaper() -> bool:
    """Whether all children that this process has not started descend from plugins."""
    return _is_subreaper


def list_child_pids() -> list[int]:
    """The pids of all children of this process; none if /proc is that of another namespace."""
    found: list[int] = []
    if not _is_own_pid_namespace_in_proc():
        return found
    try:
        for task in os.listdir("/proc/self/task"):
            found += map(
                int, process_marker.read_proc_file(f"self/task/{task}", "children").split()
            )
    except OSError as exc:
        _log.warning("cannot look for processes that plugins have left: %s", exc.strerror)
    return found


def _is_own_pid_namespace_in_proc() -> bool:
    """Whether /proc is that of the PID namespace of this process."""
    try:
        return os.readlink("/proc/self") == str(os.getpid())
    except OSError:
        return False
