"""The listening socket that this process has inherited: sd_listen_fds(3).

Source: systemd's sd_listen_fds(3), for one socket.
"""

from __future__ import annotations

import os
import socket

from meshtrio.transport.listener import PassedListener
from meshtrio.util.errors import UsageError

_FIRST_DESCRIPTOR = 3
_VARIABLES = ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES", "LISTEN_PIDFDID")


def take_inherited_listener() -> PassedListener | None:
    """Take the listening socket that this process was started with; None if there is none.

    The variables are removed: the processes that this one starts inherit neither them nor the
    socket. Variables that are for another process are left alone.

    Returns:
        The non-blocking socket, which the caller owns. Other processes may have it, too.

    Raises:
        UsageError: There are several, or the descriptor is not that of a listening socket.
    """
    if os.environ.get("LISTEN_PID") != str(os.getpid()):
        return None
    count = os.environ.get("LISTEN_FDS", "")
    for name in _VARIABLES:
        os.environ.pop(name, None)
    if count != "1":
        raise UsageError(f"LISTEN_FDS is {count!r}: a plugin serves on one inherited socket")
    try:
        os.set_inheritable(_FIRST_DESCRIPTOR, False)
        sock = PassedListener(fileno=_FIRST_DESCRIPTOR)
    except OSError as exc:
        raise UsageError(f"LISTEN_FDS: descriptor 3 is not a socket: {exc.strerror}") from None
    is_stream = sock.family in (socket.AF_UNIX, socket.AF_INET, socket.AF_INET6)
    if not is_stream or not sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        sock.detach()
        raise UsageError("LISTEN_FDS: descriptor 3 is not a listening Unix or TCP socket")
    sock.setblocking(False)
    return sock
