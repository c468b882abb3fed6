"""The dispositions of signals that plugins begin with: the defaults, whatever the mesh was given.

A signal that is ignored stays so in what a process executes. A shell without job control starts
what is to run in the background with SIGINT and SIGQUIT ignored, nohup(1) ignores SIGHUP, and some
parents ignore SIGCHLD. Signals that are caught, on the other hand, get their default back.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

_LEFT_ALONE = frozenset(
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
def defaults_for_children() -> Iterator[None]:
    """Have what is executed in the block begin with default dispositions.

    Signals that this process ignores still do nothing to it: they are caught. SIGCHLD gets its
    default, as the kernel throws exit statuses away where it is ignored, and each plugin would seem
    to have exited with status 0. Does nothing outside the main thread, which alone can change it.
    """
    changed = _change() if threading.current_thread() is threading.main_thread() else {}
    try:
        yield
    finally:
        for number, handler in changed.items():
            if signal.getsignal(number) is handler:
                signal.signal(number, signal.SIG_IGN)


def _change() -> dict[int, Any]:
    changed: dict[int, Any] = {}
    for number in signal.valid_signals() - _LEFT_ALONE:
        if signal.getsignal(number) is signal.SIG_IGN:
            handler = signal.SIG_DFL if number == signal.SIGCHLD else _do_nothing
            signal.signal(number, handler)
            changed[number] = handler
    return changed
