"""Starts that are cancelled at each of their checkpoints, and what they leave behind."""

from __future__ import annotations

import fcntl
import gc
import os
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path

import trio

from tests.support.hang_guard import guard
from tests.support.mesh_processes import child_pids, pids_with_environment

_START_TIMEOUT = 20
"""Seconds after which one start that hangs fails the test."""
_MAX_STEPS = 2000


class CancelAfterSteps(trio.abc.Instrument):
    """Cancels a scope once the tasks of a trio run have taken this many steps between them."""

    def __init__(self, steps: int, scope: trio.CancelScope) -> None:
        self._steps_left = steps
        self._scope = scope

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        self._steps_left -= 1
        if self._steps_left == 0:
            self._scope.cancel()


def cancel_at_each_step(start: Callable[[], Awaitable[None]], *folders: Path) -> int:
    """Run `start` again and again, cancelled one step later each time, until it completes.

    After each run nothing of it may be left: no descriptor, no thread, no child process, and, in
    the `folders`, no socket and no lock that is held. Returns how many runs were cancelled.
    """
    trio.run(_cancelled_after, start, None)  # What is imported and cached is so from now on.
    gc.collect()
    before = _held_resources(folders)
    for steps in range(_MAX_STEPS):
        with guard.limit(_START_TIMEOUT):
            completed = trio.run(_cancelled_after, start, steps)
        held = _held_resources(folders)
        if held != before:
            gc.collect()  # Something may just not have been finalized yet; collecting takes time.
            held = _held_resources(folders)
        assert held == before, f"cancelled after {steps} steps: {before} became {held}"
        if completed:
            assert not [
                pid
                for folder in folders
                for pid in pids_with_environment(f"PLUGIN_SOCKET={folder}/")
            ]
            return steps
    raise AssertionError(f"it did not complete in {_MAX_STEPS} steps")


async def _cancelled_after(start: Callable[[], Awaitable[None]], steps: int | None) -> bool:
    with trio.CancelScope() as scope:
        if steps == 0:
            scope.cancel()
        elif steps is not None:
            trio.lowlevel.add_instrument(CancelAfterSteps(steps, scope))
        await start()
    return not scope.cancelled_caught


def _held_resources(folders: tuple[Path, ...]) -> tuple[object, ...]:
    """Return what this process holds: descriptors, threads, children, sockets and locks."""
    threads = sorted(t.name for t in threading.enumerate() if not t.name.startswith("Trio thread"))
    return (
        _open_descriptors(),
        threads,
        child_pids(os.getpid()),
        [path for folder in folders for path in folder.rglob("*") if path.is_socket()],
        [path for folder in folders for path in folder.rglob("*.lock") if _is_locked(path)],
    )


def _open_descriptors() -> list[str]:
    """Return what each open descriptor is, without the inode numbers of sockets and pipes."""
    found = []
    for entry in os.listdir("/proc/self/fd"):
        try:
            found.append(os.readlink(f"/proc/self/fd/{entry}").partition(":[")[0])
        except OSError:
            continue  # The folder's own.
    return sorted(found)


def _is_locked(path: Path) -> bool:
    with path.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False
