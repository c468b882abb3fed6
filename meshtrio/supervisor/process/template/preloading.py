"""Imports the modules of a template, and finds what forbids to fork it. Standard library only."""

from __future__ import annotations

import contextlib
import gc
import importlib
import os
import signal
import threading
import time
from collections.abc import Collection, Sequence


class NotForkableError(Exception):
    """This process must not fork; the text says why."""


_THREAD_END_TIMEOUT, _THREAD_END_PAUSE = 0.5, 0.001
_forks = 0
"""Number of forks that were made by Python code while modules were imported."""


def _count_fork() -> None:
    global _forks
    _forks += 1


os.register_at_fork(before=_count_fork)


def import_modules(names: Sequence[str], allowed_descriptors: Collection[int]) -> None:
    """Import modules, and check after each that this process can still be forked.

    Raises NotForkableError if it cannot, or if a module cannot be imported.
    """
    pid = os.getpid()
    if problem := find_obstacle(allowed_descriptors):  # by sitecustomize, most likely
        raise NotForkableError(f"the interpreter {problem} before it imported anything")
    for name in names:
        forks_before = _forks
        try:
            importlib.import_module(name)
        except BaseException as exc:
            _exit_if_forked(pid)
            text = f"{type(exc).__name__}: {exc}".rstrip(": ")
            raise NotForkableError(f"importing {name} failed: {text}") from exc
        _exit_if_forked(pid)
        if _forks != forks_before:
            raise NotForkableError(f"{name} forked when it was imported")
        problem = find_obstacle(allowed_descriptors)
        if problem is not None:
            gc.collect()  # Collections are off, and garbage may have descriptors.
            problem = find_obstacle(allowed_descriptors)
        if problem := problem or _find_shared_state():
            raise NotForkableError(f"{name} {problem} when it was imported")


def _exit_if_forked(pid: int) -> None:
    """End a child that a module has forked, and that has come back from its import."""
    if os.getpid() != pid:
        os._exit(0)


def find_obstacle(allowed_descriptors: Collection[int]) -> str | None:
    """Find what forbids to fork, as a predicate in the past tense; None if nothing does."""
    if _has_threads():
        names = [each.name for each in threading.enumerate()[1:]]
        return f"started a thread ({', '.join(names) or 'not in Python'})"
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return _find_open_file(allowed_descriptors)
    return "left a child process running"


def _has_threads() -> bool:
    """Whether there is another thread. One that Python has joined may take a moment to be gone."""
    end = time.monotonic() + _THREAD_END_TIMEOUT
    while len(os.listdir("/proc/self/task")) > 1:
        if threading.active_count() > 1 or time.monotonic() > end:
            return True
        time.sleep(_THREAD_END_PAUSE)
    return False


def _find_shared_state() -> str | None:
    """Find what children would share, or not have, although they have no descriptor of it."""
    with open("/proc/self/maps") as file:
        # Locks of multiprocessing are in such memory, too.
        modes = (line.split(maxsplit=2)[1] for line in file)
        if any(mode[1] == "w" and mode[3] == "s" for mode in modes):
            return "mapped memory that all processes would share"
    timers = signal.ITIMER_REAL, signal.ITIMER_VIRTUAL, signal.ITIMER_PROF
    if any(any(signal.getitimer(each)) for each in timers):
        return "left a timer running"
    return None


def _find_open_file(allowed_descriptors: Collection[int]) -> str | None:
    names = [name for name in os.listdir("/proc/self/fd") if int(name) not in allowed_descriptors]
    if len(names) == 1:  # That of the listing itself, which is closed by now.
        return None
    for name in names:
        with contextlib.suppress(FileNotFoundError):
            target = os.readlink(f"/proc/self/fd/{name}")
            return f"left {'a socket' if target.startswith('socket:') else target} open"
    return None
