"""Signals and waiting by pidfd (pidfd_open(2)), which refers to one process even after its exit.

A pid may be reused once its process has been reaped. So a pidfd is opened first, and it is checked
afterwards that the pid still belongs to the process that was meant. Standard library only: the
warden uses it, too.
"""

from __future__ import annotations

import os
import select
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def open_pidfd(pid: int) -> Iterator[int]:
    """Open a pidfd for the block. Raises ProcessLookupError, or OSError if none is left."""
    pidfd = os.pidfd_open(pid)
    try:
        yield pidfd
    finally:
        os.close(pidfd)


def send_signals(pid: int, signals: tuple[int, ...], is_same: Callable[[], bool]) -> bool:
    """Send signals in order if the pid, of which a pidfd is open then, `is_same` as was meant.

    Returns whether they were sent. Raises OSError as `open_pidfd`, or PermissionError.
    """
    with open_pidfd(pid) as pidfd:
        if not is_same():
            return False
        for number in signals:
            signal.pidfd_send_signal(pidfd, number)
        return True


def has_exited(pidfd: int) -> bool:
    """Whether the process of a pidfd has exited; it may be a zombie."""
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(0))
