"""The dispositions of signals that plugins begin with: the defaults, whatever the mesh was given.

A signal that is ignored stays so in what a process executes. A shell without job control starts
what is to run in the background with SIGINT and SIGQUIT ignored, nohup(1) ignores SIGHUP, and some
parents ignore SIGCHLD. Signals that are caught, on the other hand, get their default back.
"""

from __future__ import annotations

import ctypes
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from meshtrio.supervisor.process.proc import procfs

_UNCHANGED_SIGNALS = frozenset(
    {
        signal.SIGKILL,
        signal.SIGSTOP,
        # By subprocess, in the child:
        signal.SIGPIPE,
        signal.SIGXFSZ,
        # To catch these would interrupt what writes to a terminal from the background, again and
        # again.
        signal.SIGTSTP,
        signal.SIGTTIN,
        signal.SIGTTOU,
    }
)


def _do_nothing(number: int, frame: FrameType | None) -> None:
    pass


@contextmanager
def default_signals_in_children() -> Iterator[None]:
    """Have what is executed in the block begin with default dispositions.

    Signals that this process ignores still do nothing to it: they are caught. SIGCHLD gets its
    default, as the kernel throws exit statuses away if it is ignored. Python can change the others
    in the main thread only; in other threads they stay as they are, see `needs_signal_reset`.
    """
    changed = {}
    if threading.current_thread() is threading.main_thread():
        changed = _catch_ignored_signals()
    elif signal.SIGCHLD in _read_ignored_signals():
        ctypes.CDLL(None).signal(signal.SIGCHLD, 0)
    try:
        yield
    finally:
        for number, handler in changed.items():
            if signal.getsignal(number) is handler:
                signal.signal(number, signal.SIG_IGN)


def needs_signal_reset() -> bool:
    """Whether what this thread executes begins with signals ignored or blocked.

    It has to reset them itself, as the launcher does. To unblock them here, even for a moment,
    would have signals delivered that the program blocks.
    """
    return bool(
        _read_ignored_signals() - _UNCHANGED_SIGNALS or signal.pthread_sigmask(signal.SIG_BLOCK, ())
    )


def _read_ignored_signals() -> set[int]:
    """The signals that this process ignores, by the kernel's account.

    Python's own misses what other code in the process has set.
    """
    status = procfs.read_status("self")
    if status is None:
        return {n for n in signal.valid_signals() if signal.getsignal(n) is signal.SIG_IGN}
    return {n for n in signal.valid_signals() if procfs.has_signal(status.ignored_signals, n)}


def _catch_ignored_signals() -> dict[int, Any]:
    changed: dict[int, Any] = {}
    for number in _read_ignored_signals() - _UNCHANGED_SIGNALS:
        handler = signal.SIG_DFL if number == signal.SIGCHLD else _do_nothing
        signal.signal(number, handler)
        changed[number] = handler
    return changed
