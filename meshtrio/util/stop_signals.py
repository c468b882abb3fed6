"""Receives the signals that stop a program."""

from __future__ import annotations

import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager

import trio


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
