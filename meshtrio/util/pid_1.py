"""What is different for a process that is PID 1, as the first one of a container is.

The kernel discards signals that PID 1 does not handle instead of terminating it, so that a program
that has not installed its handlers yet, or needs none, could only be killed (pid_namespaces(7)).
"""

from __future__ import annotations

import os
import signal
from types import FrameType
from typing import NoReturn

_TERMINATING_SIGNALS = (signal.SIGTERM, signal.SIGHUP)
"""Signals that are sent to end a program. Python handles SIGINT."""


def terminate_as_pid_1() -> None:
    """Have signals end this process if it is PID 1, as they end others by default.

    A program that handles some of them itself installs its handlers afterwards. Ignored ones stay
    ignored. Must be called in the main thread.
    """
    if os.getpid() != 1:
        return
    for number in _TERMINATING_SIGNALS:
        if signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, _terminate)


def _terminate(number: int, frame: FrameType | None) -> NoReturn:
    """End the process at once, with the status that a shell reports for the signal."""
    os._exit(128 + number)
