"""Dumps the stacks of threads and trio tasks to stderr on SIGQUIT.

`faulthandler` writes the threads' stacks directly in the signal handler, even if the interpreter is
stuck in a call that never returns. The tasks follow if it is not.
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
    """Dump stacks on SIGQUIT instead of terminating. For the main thread only.

    Does nothing if the program handles SIGQUIT already. Ignoring it does not count as handling,
    since background processes of shells inherit that.
    """
    if signal.getsignal(signal.SIGQUIT) in (signal.SIG_DFL, signal.SIG_IGN):
        signal.signal(signal.SIGQUIT, _dump_tasks)
        # By number, since sys.stderr may be None or not a file.
        faulthandler.register(signal.SIGQUIT, file=_STDERR, all_threads=True, chain=True)


def restore_sigquit() -> None:
    """Let SIGQUIT terminate this process again, if `dump_on_sigquit` has changed that."""
    if signal.getsignal(signal.SIGQUIT) is _dump_tasks:
        faulthandler.unregister(signal.SIGQUIT)
        signal.signal(signal.SIGQUIT, signal.SIG_DFL)


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
