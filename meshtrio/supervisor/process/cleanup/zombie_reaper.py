"""Orphans: processes whose parents have ended, and which the kernel has made children of this one.

That happens to PID 1, which a mesh is in most containers, and to a subreaper (prctl(2)). When they
end, they stay as zombies, each with its place in the table of processes, until somebody has waited
for them. Waiting for any child would take the exit status from whoever has started it; so what is
waited for here are only zombies that nobody in this process can have started.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Protocol

import trio

from meshtrio.supervisor.process.proc import procfs
from meshtrio.supervisor.process.proc.proc_scanner import get_scanner
from meshtrio.util.concurrency import sleep_until_tick

_log = logging.getLogger("meshtrio.mesh")

_CHECK_INTERVAL = 1.0
_MAX_CHECK_INTERVAL = 30.0
"""Seconds between two looks at the zombies there are, as long as none of them is an orphan: other
code of this program has started them, and is free to wait for them when it likes."""
_FINAL_REAP_TIMEOUT = 2.0
_PR_GET_CHILD_SUBREAPER = 37


class Reapable(Protocol):
    """A child that cannot be reaped yet; see `ChildProcess`."""

    def try_reap(self) -> bool: ...


class _ChildRegistry:
    """The children that the meshes of this process have started and not yet waited for."""

    def __init__(self) -> None:
        self.pids: set[int] = set()
        self.deferred: list[tuple[Reapable, Callable[[], None]]] = []
        """Those that are reaped when it becomes possible, and what is called then."""
        self.pending_starts = 0
        """How many are being started, whose pids are not known yet."""
        self.start_count = 0
        """How many starts there have been."""
        self.has_only_own = False
        """Whether nothing else in this process starts any."""


_registry = _ChildRegistry()


@contextmanager
def register_start() -> Iterator[Callable[[int], None]]:
    """Start a child in the block, and call what this yields with its pid, if there is one."""
    _registry.pending_starts += 1
    _registry.start_count += 1
    try:
        yield _registry.pids.add
    finally:
        _registry.pending_starts -= 1


def unregister_child(pid: int) -> None:
    """A child that was started has been reaped: the pid may be that of another from now on."""
    _registry.pids.discard(pid)


def is_registered_child(pid: int) -> bool:
    """Whether a child was started by a mesh of this process, and not yet waited for."""
    return pid in _registry.pids


def has_no_pending_starts() -> bool:
    """Whether the pids of all started children are known, since none is being started."""
    return not _registry.pending_starts


def declare_no_other_children() -> None:
    """Declare that this program starts no processes but those of its meshes."""
    _registry.has_only_own = True


def reap_later(child: Reapable, on_reaped: Callable[[], None] = lambda: None) -> None:
    """Have a child reaped when that becomes possible, and call `then`.

    For those that cannot be killed, or that have ended and are held as zombies by their tracers.
    They are tried once a second, as long as there is a mesh in this process.
    """
    _registry.deferred.append((child, on_reaped))


async def run_zombie_reaper(
    *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
) -> None:
    """Once a second, wait for orphans that have ended, until cancelled, and then once more."""
    task_status.started()
    pause, due = _CHECK_INTERVAL, -math.inf
    try:
        while True:
            await sleep_until_tick(_CHECK_INTERVAL)
            _reap_deferred()
            if trio.current_time() >= due:
                nothing_found = _has_zombies() and await reap_zombies() == 0
                pause = min(2 * pause, _MAX_CHECK_INTERVAL) if nothing_found else _CHECK_INTERVAL
                due = trio.current_time() + pause - _CHECK_INTERVAL
    finally:
        _reap_deferred()
        with trio.move_on_after(_FINAL_REAP_TIMEOUT, shield=True):
            await reap_zombies()


def _reap_deferred() -> None:
    children, _registry.deferred = _registry.deferred, []
    for child, then in children:
        if child.try_reap():
            then()
        else:
            _registry.deferred.append((child, then))


async def reap_zombies() -> int | None:
    """Wait for the orphans that have ended, and return how many those were.

    Returns None if it could not be found out which zombies are orphans. Never blocks.
    """
    try:
        if not _has_zombies() or not _receives_orphans():
            return 0
        if _registry.pending_starts:
            return None
        before = _registry.start_count
        found = [stat.pid for stat in await get_scanner().read_stats() if _is_orphan(stat)]
    except (OSError, RuntimeError) as exc:
        _log.warning("cannot look for orphans that have ended: %s", exc)
        return None
    if _registry.start_count != before:
        return None  # one of them may be a child that was started meanwhile
    reap_pids(found)
    return len(found)


def reap_pids(pids: Iterable[int]) -> None:
    """Wait for orphans that have ended, as far as they are children of this process."""
    for pid in pids:
        if pid not in _registry.pids:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, os.WNOHANG)


def _has_zombies() -> bool:
    """Whether any child has ended and was not waited for, which is left as it is."""
    try:
        found = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return False
    return found is not None


def _receives_orphans() -> bool:
    """Whether orphans become children of this process."""
    if os.getpid() == 1:
        return True
    import ctypes  # most meshes are not PID 1 and have no zombies

    flag = ctypes.c_int(0)
    ctypes.CDLL(None).prctl(_PR_GET_CHILD_SUBREAPER, ctypes.byref(flag), 0, 0, 0)
    return bool(flag.value)


def _is_orphan(stat: procfs.ProcessStat) -> bool:
    """Whether a process is a zombie that was adopted.

    What this process has started itself is in its session, or leads one of its own.
    """
    if stat.state != "Z" or stat.ppid != os.getpid() or stat.pid in _registry.pids:
        return False
    return _registry.has_only_own or stat.session not in (stat.pid, os.getsid(0))
