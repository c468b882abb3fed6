"""Resets signal handlers in children that a server's handlers fork without exec (multiprocessing).

Such a child is a copy of the server in the middle of its event loop. On SIGTERM it would write to
the wakeup socket as the server does, whose other end the parent's event loop reads: terminating the
child would have no effect on it, and stop the parent instead.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

from meshtrio.util.stack_dump import restore_sigquit

_active_blocks = 0
"""Number of active blocks of `reset_signals_in_forks` in this process."""


@contextmanager
def reset_signals_in_forks() -> Iterator[None]:
    """Reset signal handlers in children that are forked during the block.

    SIGTERM terminates them, SIGINT raises KeyboardInterrupt, and SIGQUIT terminates them unless the
    program handles it itself. Children that execute a program are not affected.
    """
    global _active_blocks
    _register_hook()
    _active_blocks += 1
    try:
        yield
    finally:
        _active_blocks -= 1


@cache
def _register_hook() -> None:
    """Register the hook once in a process; it cannot be unregistered."""
    os.register_at_fork(after_in_child=_reset_in_child)


def _reset_in_child() -> None:
    global _active_blocks
    if not _active_blocks:
        return
    _active_blocks = 0
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    restore_sigquit()
