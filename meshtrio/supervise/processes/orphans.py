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

from meshtrio.structured import next_beat
from meshtrio.supervise.processes import procfs
from meshtrio.supervise.processes.scans import scans

_log = logging.getLogger("meshtrio.mesh")

_LOOK_EVERY = 1.0
_MAX_LOOK_EVERY = 30.0
"""Seconds between two looks at the zombies there are, as long as none of them is an orphan: other
code of this program has started them, and is free to wait for them when it likes."""
_LAST_LOOK_WITHIN = 2.0
_PR_GET_CHILD_SUBREAPER = 37


class Reapable(Protocol):
    """A child that cannot be reaped yet; see `ChildProcess`."""

    def try_reap(self) -> bool: ...


class _Children:
    """The children that the meshes of this process have started and not yet waited for."""

    def __init__(self) -> None:
        self.pids: set[int] = set()
        self.later: list[tuple[Reapable, Callable[[], None]]] = []
        """Those that are reaped when it becomes possible, and what is called then."""
        self.starting = 0
        """How many are being started, whose pids are not known yet."""
        self.started = 0
        """How many starts there have been."""
        self.are_all = False
        """Whether nothing else in this process starts any."""


_children = _Children()


@contextmanager
def starting() -> Iterator[Callable[[int], None]]:
    """Start a child in the block, and call what this yields with its pid, if there is one."""
    _children.starting += 1
    _children.started += 1
    try:
        yield _children.pids.add
    finally:
        _children.starting -= 1


def waited_for(pid: int) -> None:
    """A child that was started has been reaped: the pid may be that of another from now on."""
    _children.pids.discard(pid)


def was_started(pid: int) -> bool:
    """Whether a child was started by a mesh of this process, and not yet waited for."""
    return pid in _children.pids


def are_known() -> bool:
    """Whether the pids of all started children are known, since none is being started."""
    return not _children.starting


def only_meshes_start_children() -> None:
    """Declare that this program starts no processes but those of its meshes."""
    _children.are_all = True


def reap_later(child: Reapable, then: Callable[[], None] = lambda: None) -> None:
    """Have a child reaped when that becomes possible, and call `then`.

    For those that cannot be killed, or that have ended and are held as zombies by their tracers.
    They are tried once a second, as long as there is a mesh in this process.
    """
    _children.later.append((child, then))


async def reap_orphans(*, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
    """Once a second, wait for orphans that have ended, until cancelled, and then once more."""
    task_status.started()
    pause, due = _LOOK_EVERY, -math.inf
    try:
        while True:
            await next_beat(_LOOK_EVERY)
            _reap_what_was_left()
            if trio.current_time() >= due:
                nothing_found = _has_zombies() and await reap_once() == 0
                pause = min(2 * pause, _MAX_LOOK_EVERY) if nothing_found else _LOOK_EVERY
                due = trio.current_time() + pause - _LOOK_EVERY
    finally:
        _reap_what_was_left()
        with trio.move_on_after(_LAST_LOOK_WITHIN, shield=True):
            await reap_once()


def _reap_what_was_left() -> None:
    children, _children.later = _children.later, []
    for child, then in children:
        if child.try_reap():
            then()
        else:
            _children.later.append((child, then))


async def reap_once() -> int | None:
    """Wait for the orphans that have ended, and return how many those were.

    Returns None if it could not be found out which zombies are orphans. Never blocks.
    """
    try:
        if not _has_zombies() or not _adopts():
            return 0
        if _children.starting:
            return None
        before = _children.started
        found = [stat.pid for stat in await scans().stats() if _is_orphan(stat)]
    except (OSError, RuntimeError) as exc:
        _log.warning("cannot look for orphans that have ended: %s", exc)
        return None
    if _children.started != before:
        return None  # one of them may be a child that was started meanwhile
    reap_killed(found)
    return len(found)


def reap_killed(pids: Iterable[int]) -> None:
    """Wait for orphans that have ended, as far as they are children of this process."""
    for pid in pids:
        if pid not in _children.pids:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, os.WNOHANG)


def _has_zombies() -> bool:
    """Whether any child has ended and was not waited for, which is left as it is."""
    try:
        found = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return False
    return found is not None


def _adopts() -> bool:
    """Whether orphans become children of this process."""
    if os.getpid() == 1:
        return True
    import ctypes  # most meshes are not PID 1 and have no zombies

    flag = ctypes.c_int(0)
    ctypes.CDLL(None).prctl(_PR_GET_CHILD_SUBREAPER, ctypes.byref(flag), 0, 0, 0)
    return bool(flag.value)


def _is_orphan(stat: procfs.Stat) -> bool:
    """Whether a process is a zombie that was adopted.

    What this process has started itself is in its session, or leads one of its own.
    """
    if stat.state != "Z" or stat.parent != os.getpid() or stat.pid in _children.pids:
        return False
    return _children.are_all or stat.session not in (stat.pid, os.getsid(0))
