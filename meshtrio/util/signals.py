"""Receives the signals that stop a program, and resets signal handlers in children that it forks.

A child that a server's handlers fork without exec (multiprocessing) is a copy of the server in the
middle of its event loop. On SIGTERM it would write to the wakeup socket as the server does, whose
other end the parent's event loop reads: terminating the child would have no effect on it, and stop
the parent instead.
"""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from functools import cache

import trio

from meshtrio.util.stack_dump import restore_sigquit


@contextmanager
def stop_signals(*, ignore_afterwards: bool = False) -> Iterator[AsyncIterator[int]]:
    """Receive the signals that stop a program, during the block.

    These are SIGTERM, SIGINT, and SIGHUP, which a closed terminal sends, unless it is ignored as
    under nohup. The block reacts to the first one. Later ones have no effect: a second Ctrl-C, or a
    signal to all of a cgroup, must not kill a program that is shutting down. Must be entered in the
    main thread.

    Args:
        ignore_afterwards: Whether signals have no effect after the block either, because the
            program only has to exit.

    Yields:
        An iterator of signal numbers.
    """
    numbers = [signal.SIGTERM, signal.SIGINT]
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        numbers.append(signal.SIGHUP)
    before = {number: signal.getsignal(number) for number in numbers}
    # Blocked until the receiver is open. Signals that were not received are delivered in the end.
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, numbers)
    try:
        for number in numbers:
            signal.signal(number, signal.SIG_IGN)
        with trio.open_signal_receiver(*numbers) as signals:
            # The parent may have blocked them, which is inherited.
            signal.pthread_sigmask(signal.SIG_SETMASK, mask - set(numbers))
            yield signals
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        if not ignore_afterwards:
            for number, handler in before.items():
                if handler is not None:  # None: it was not installed from Python.
                    signal.signal(number, handler)


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
