"""What a program is doing, on stderr, when it is asked with SIGQUIT: threads and trio tasks.

The threads' stacks are written by `faulthandler` straight from the signal, so they come even when
the interpreter is stuck in a call that never returns; the tasks follow if it is not.
"""

from __future__ import annotations

import contextlib
import faulthandler
import os
import signal
import traceback
from collections.abc import Iterator
from types import FrameType

import trio

_STDERR = 2


def dump_on_sigquit() -> None:
    """Answer SIGQUIT from now on, instead of dying of it. For the main thread only.

    A program that handles it already is left alone. One that ignores it has not chosen to: shells
    start what is to run in the background so, and everything below inherits it.
    """
    if signal.getsignal(signal.SIGQUIT) in (signal.SIG_DFL, signal.SIG_IGN):
        signal.signal(signal.SIGQUIT, _dump_tasks)
        # By number: sys.stderr may be none, or no file.
        faulthandler.register(signal.SIGQUIT, file=_STDERR, all_threads=True, chain=True)


def restore_sigquit() -> None:
    """Let SIGQUIT end this process again, if `dump_on_sigquit` has changed that."""
    if signal.getsignal(signal.SIGQUIT) is _dump_tasks:
        faulthandler.unregister(signal.SIGQUIT)
        signal.signal(signal.SIGQUIT, signal.SIG_DFL)


def _dump_tasks(number: int, frame: FrameType | None) -> None:
    try:
        root = trio.lowlevel.current_root_task()
    except RuntimeError:
        return
    if root is not None:
        # A stderr that cannot be written to must not end what was only asked where it is.
        with contextlib.suppress(OSError):
            text = "\n".join(["trio's tasks:", *format_task_tree(root), ""])
            os.write(_STDERR, text.encode(errors="replace"))


def format_task_tree(task: trio.lowlevel.Task, depth: int = 0) -> Iterator[str]:
    """A task and those below it, each with the lines it waits in, outermost first."""
    indent = "  " * depth
    yield f"{indent}task {task.name}"
    for frame, line in task.iter_await_frames():
        found = traceback.extract_stack(frame, limit=1)[0]
        yield f"{indent}  {found.filename}:{line} in {found.name}"
    for nursery in task.child_nurseries:
        for child in nursery.child_tasks:
            yield from format_task_tree(child, depth + 1)
