"""Signals: those that stop a program, SIGQUIT for a dump of stacks, and handlers after a fork."""

from __future__ import annotations

import contextlib
import faulthandler
import os
import signal
import traceback
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from functools import cache
from types import FrameType

import trio

_STDERR = 2
_active_blocks = 0
"""Number of active blocks of `reset_signals_in_forks` in this process."""


@contextmanager
def stop_signals(*, ignore_afterwards: bool = False) -> Iterator[AsyncIterator[int]]:
    """Receive the numbers of signals that stop a program, during the block.

    These are SIGTERM, SIGINT, and SIGHUP, which a closed terminal sends, unless it is ignored as
    under nohup; `meshtrio serve` reloads its config for one whose terminal is open. The block
    reacts to the first one. Later ones have no effect: a second Ctrl-C, or a signal to all of a
    cgroup, must not kill a program that is shutting down. With `ignore_afterwards` they have none
    after the block either, because the program only has to exit.
    Must be entered in the main thread.
    """
    numbers = [signal.SIGTERM, signal.SIGINT]
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        numbers.append(signal.SIGHUP)
    before = {number: signal.getsignal(number) for number in numbers}
    # Blocked until the receiver is open. Signals that were not received are delivered in the end.
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, numbers)
    try:
        for number in numbers:
            # Not SIG_IGN, which would discard a signal that is pending, as after an upgrade.
            signal.signal(number, _do_nothing)
        with trio.open_signal_receiver(*numbers) as signals:
            # The parent may have blocked them, which is inherited.
            signal.pthread_sigmask(signal.SIG_SETMASK, mask - set(numbers))
            yield signals
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        for number, handler in before.items():
            if ignore_afterwards:
                # An interpreter that ends restores default handlers, but leaves this.
                signal.signal(number, signal.SIG_IGN)
            elif handler is not None:  # None: it was not installed from Python.
                signal.signal(number, handler)


@contextmanager
def upgrade_signals() -> Iterator[AsyncIterator[int]]:
    """Receive SIGUSR2 during the block; it is ignored afterwards. As for `stop_signals`."""
    try:
        with trio.open_signal_receiver(signal.SIGUSR2) as signals:
            yield signals
    finally:
        signal.signal(signal.SIGUSR2, signal.SIG_IGN)


def catch_without_effect(number: int) -> None:
    """Catch a signal that would end the program, until a receiver is opened."""
    signal.signal(number, _do_nothing)


def _do_nothing(number: int, frame: FrameType | None) -> None:
    pass


def dump_on_sigquit() -> None:
    """Dump the stacks of threads and trio tasks to stderr on SIGQUIT instead of terminating.

    `faulthandler` writes the threads' stacks directly in the signal handler, even if the
    interpreter is stuck in a call that never returns. The tasks follow if it is not. Does nothing
    if the program handles SIGQUIT already; ignoring it does not count, since background processes
    of shells inherit that. Must be called in the main thread.
    """
    if signal.getsignal(signal.SIGQUIT) in (signal.SIG_DFL, signal.SIG_IGN):
        signal.signal(signal.SIGQUIT, _dump_tasks)
        # By number, since sys.stderr may be None or not a file.
        faulthandler.register(signal.SIGQUIT, file=_STDERR, all_threads=True, chain=True)


def _dump_tasks(number: int, frame: FrameType | None) -> None:
    try:
        root = trio.lowlevel.current_root_task()
    except RuntimeError:
        return
    if root is not None:
        # The process must not fail because stderr cannot be written to.
        with contextlib.suppress(OSError):
            text = "\n".join(["trio's tasks:", *format_task_tree(root), ""])
            os.write(_STDERR, text.encode(errors="replace"))


def format_task_tree(task: trio.lowlevel.Task, depth: int = 0) -> Iterator[str]:
    """Yield the lines of a task and its child tasks, each with its await stack, outermost first."""
    indent = "  " * depth
    yield f"{indent}task {task.name}"
    for frame, line in task.iter_await_frames():
        found = traceback.extract_stack(frame, limit=1)[0]
        yield f"{indent}  {found.filename}:{line} in {found.name}"
    for nursery in task.child_nurseries:
        for child in nursery.child_tasks:
            yield from format_task_tree(child, depth + 1)


@contextmanager
def reset_signals_in_forks() -> Iterator[None]:
    """Reset signal handlers in children that are forked without exec during the block.

    Such a child (multiprocessing) is a copy of the server in the middle of its event loop. On
    SIGTERM it would write to the wakeup socket as the server does, whose other end the parent's
    event loop reads: terminating the child would have no effect on it, and stop the parent instead.
    In the child, SIGTERM and SIGQUIT terminate, the latter unless the program handles it itself,
    and SIGINT raises KeyboardInterrupt.
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
    if signal.getsignal(signal.SIGQUIT) is _dump_tasks:
        faulthandler.unregister(signal.SIGQUIT)
        signal.signal(signal.SIGQUIT, signal.SIG_DFL)
