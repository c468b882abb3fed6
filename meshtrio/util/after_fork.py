"""Children that a server's handlers fork: fork(2) without exec, as multiprocessing may do it.

Such a child is a copy of the server in the middle of its event loop. It would answer SIGTERM as
the server does, by a note to the event loop, which does not run in it: `PluginProcess.terminate()`
would have no effect, and as both have the same wakeup socket, the note would go to the parent.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

from meshtrio.util.stack_dump import restore_sigquit

_active_blocks = 0
"""How many blocks of `reset_signals_in_forks` are entered in this process."""


@contextmanager
def reset_signals_in_forks() -> Iterator[None]:
    """Have children that are forked during the block react to signals as any program does.

    SIGTERM ends them, SIGINT raises KeyboardInterrupt, and SIGQUIT ends them unless the program
    handles it itself. Nothing changes for programs that are executed.
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
    """Once in a process: what is registered stays."""
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
