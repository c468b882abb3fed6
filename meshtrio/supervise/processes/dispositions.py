"""What programs that we start do with signals: what they do by default, whatever we ignore.

A shell without job control starts what runs in the background with SIGINT and SIGQUIT ignored, and
nohup does so with SIGHUP. A program inherits that, while a handler is replaced by the default when
it is executed. `subprocess` resets what Python itself ignores, and nothing else.
"""

from __future__ import annotations

import signal
import threading
from types import FrameType

_RESET = (
    *(signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM),
    *(signal.SIGUSR1, signal.SIGUSR2, signal.SIGALRM),
)
"""Those that stop programs or tell them something. SIGCHLD, and those that terminals stop programs
by, mean something else when they are handled than when they are ignored."""


def ignore_by_handlers() -> None:
    """Replace each ignored signal of this process by a handler that does nothing.

    Does nothing outside of the main thread, where Python cannot set handlers.
    """
    if threading.current_thread() is threading.main_thread():
        for number in _RESET:
            if signal.getsignal(number) is signal.SIG_IGN:
                signal.signal(number, _ignored)


def _ignored(number: int, frame: FrameType | None) -> None:
    """Do nothing."""
