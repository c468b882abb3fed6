"""The controlling terminal of this process, and whether it has been closed.

A closed terminal and `kill -HUP` both arrive as SIGHUP, and by which of them it was sent does not
show: shells forward the SIGHUP of their terminal to their jobs by kill(2). But by then the kernel
has taken the terminal from all processes of the session, so that /dev/tty (tty(4)) no longer opens.
"""

from __future__ import annotations

import errno
import os

_DEVICE = "/dev/tty"
_NO_TERMINAL_ERRNOS = frozenset({errno.ENXIO, errno.EIO})
"""ENXIO if the session has none, EIO while the kernel is hanging it up."""


def has_terminal() -> bool:
    """Whether this process has a controlling terminal that has not been closed."""
    try:
        descriptor = os.open(_DEVICE, os.O_RDONLY | os.O_NOCTTY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as exc:
        # Other errors (no descriptor is left, no such file) do not show that it is gone.
        return exc.errno not in _NO_TERMINAL_ERRNOS
    os.close(descriptor)
    return True


class ControllingTerminal:
    """Remembers whether this process had a controlling terminal when this was created."""

    def __init__(self) -> None:
        self.existed = has_terminal()
        """Whether it had one then."""

    @property
    def is_closed(self) -> bool:
        """Whether it had one then, and has none now."""
        return self.existed and not has_terminal()
