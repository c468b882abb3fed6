"""Starts plugins with default signal dispositions, whatever the mesh itself has inherited.

An ignored signal stays ignored after execve(2), while a caught one gets its default disposition. A
shell without job control starts background processes with SIGINT and SIGQUIT ignored, nohup(1)
ignores SIGHUP, and some parents ignore SIGCHLD.
"""

from __future__ import annotations

import contextlib
import ctypes
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from meshtrio.supervisor.process.proc.procfs import has_signal
from meshtrio.util.processes import ProcessInfo

_UNCHANGED_SIGNALS = {
    *(signal.SIGKILL, signal.SIGSTOP),
    *(signal.SIGPIPE, signal.SIGXFSZ),  # subprocess restores these in the child
    # Catching these would interrupt writes to a terminal from the background again and again.
    *(signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU),
}


def _do_nothing(number: int, frame: FrameType | None) -> None:
    pass


@contextmanager
def default_signals_in_children() -> Iterator[None]:
    """Start programs with default signal dispositions during the block.

    Signals that this process ignores are caught by a handler that does nothing. SIGCHLD gets its
    default disposition, since the kernel discards exit statuses while it is ignored. Python can
    change the others in the main thread only; in other threads they are unchanged, and
    `needs_signal_reset` is true.
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


def is_caught_in_place_of_ignoring(handler: object) -> bool:
    """Whether a handler is that of a signal that this process would ignore otherwise."""
    return handler is _do_nothing


def needs_signal_reset() -> bool:
    """Whether a program that this thread starts inherits ignored or blocked signals.

    It must reset them itself then, as the launcher does. Unblocking them here, even briefly, would
    deliver signals that this program blocks.
    """
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    return bool(_read_ignored_signals() - _UNCHANGED_SIGNALS or blocked)


def _read_ignored_signals() -> set[int]:
    """Read from /proc which signals this process ignores.

    `signal.getsignal` does not know what non-Python code has set.
    """
    with contextlib.suppress(OSError):  # No descriptors are left.
        process = ProcessInfo("self")
        if process.is_alive:
            return {n for n in signal.valid_signals() if has_signal(process.ignored_signals, n)}
    return {n for n in signal.valid_signals() if signal.getsignal(n) is signal.SIG_IGN}


def _catch_ignored_signals() -> dict[int, Any]:
    ignored = _read_ignored_signals() - _UNCHANGED_SIGNALS
    changed = {n: signal.SIG_DFL if n == signal.SIGCHLD else _do_nothing for n in ignored}
    for number, handler in changed.items():
        signal.signal(number, handler)
    return changed
