"""Reaps orphans: zombies that the kernel has made children of this process.

A process whose parent has exited becomes a child of PID 1, which a mesh is in most containers, or
of the nearest subreaper (prctl(2)). When it exits it stays a zombie, which occupies an entry of the
process table, until its new parent waits for it. Waiting for any child would take the exit status
from the code that has started it; so only zombies that no code in this process can have started are
reaped here.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
from collections.abc import Iterable

import trio

from meshtrio.supervisor.process.proc import procfs
from meshtrio.supervisor.process.proc.proc_scanner import get_scanner
from meshtrio.supervisor.process.spawn.child_process import CHILD_REGISTRY
from meshtrio.util.concurrency import sleep_until_tick
from meshtrio.util.log_once import ReasonChangeLogger

_log = logging.getLogger("meshtrio.mesh")

_CHECK_INTERVAL = 1.0
_MAX_CHECK_INTERVAL = 30.0
"""Maximum number of seconds between two checks, as long as no zombie is an orphan: other code of
this program has started them, and may wait for them when it likes."""
_FINAL_REAP_TIMEOUT = 2.0
_PR_GET_CHILD_SUBREAPER = 37

_failure_log = ReasonChangeLogger(_log)


async def run_zombie_reaper(
    *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
) -> None:
    """Reap orphans and deferred children once a second, until cancelled, and then once more."""
    task_status.started()
    pause, due = _CHECK_INTERVAL, -math.inf
    try:
        while True:
            await sleep_until_tick(_CHECK_INTERVAL)
            CHILD_REGISTRY.reap_deferred()
            if trio.current_time() >= due:
                nothing_found = _has_zombies() and await reap_zombies() == 0
                pause = min(2 * pause, _MAX_CHECK_INTERVAL) if nothing_found else _CHECK_INTERVAL
                due = trio.current_time() + pause - _CHECK_INTERVAL
    finally:
        CHILD_REGISTRY.reap_deferred()
        with trio.move_on_after(_FINAL_REAP_TIMEOUT, shield=True):
            await reap_zombies()


async def reap_zombies() -> int | None:
    """Reap all orphans that have exited; return their number.

    Returns None if it is unknown which zombies are orphans. Never blocks.
    """
    try:
        if not _has_zombies() or not _receives_orphans():
            return 0
        if CHILD_REGISTRY.pending_starts:
            return None
        before = CHILD_REGISTRY.start_count
        found = [stat.pid for stat in await get_scanner().read_stats() if _is_orphan(stat)]
    except (OSError, RuntimeError) as exc:
        _failure_log.log(str(exc), "cannot look for orphans that have exited: %s", exc)
        return None
    _failure_log.reset()
    if CHILD_REGISTRY.start_count != before:
        return None  # One of them may be a child that was started meanwhile.
    reap_pids(found)
    return len(found)


def reap_pids(pids: Iterable[int]) -> None:
    """Reap those of some processes that are orphans, children of this process, and have exited."""
    for pid in pids:
        if pid not in CHILD_REGISTRY.pids:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, os.WNOHANG)


def _has_zombies() -> bool:
    """Whether any child is a zombie; it is left as one."""
    with contextlib.suppress(ChildProcessError):
        return os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
    return False


def _receives_orphans() -> bool:
    """Whether orphans become children of this process."""
    if os.getpid() == 1:
        return True
    import ctypes  # most meshes are not PID 1 and have no zombies

    flag = ctypes.c_int(0)
    ctypes.CDLL(None).prctl(_PR_GET_CHILD_SUBREAPER, ctypes.byref(flag), 0, 0, 0)
    return bool(flag.value)


def _is_orphan(stat: procfs.ProcessStat) -> bool:
    """Whether a process is a zombie that this process has not started itself.

    What other code of this process has started is in this process's session or leads its own.
    """
    if stat.state != "Z" or stat.ppid != os.getpid() or stat.pid in CHILD_REGISTRY.pids:
        return False
    return CHILD_REGISTRY.is_exclusive or stat.session not in (stat.pid, os.getsid(0))
