"""Sends datagrams to the service manager's socket. Never blocks, never raises."""

from __future__ import annotations

import logging
import os
import socket

from meshtrio.contract import MAX_SOCKET_PATH_LENGTH
from meshtrio.util.log_once import ReasonChangeLogger

_log = logging.getLogger("meshtrio.mesh")


class NotifySocket:
    """The socket that NOTIFY_SOCKET names; without one, nothing is sent."""

    def __init__(self, name: str | None) -> None:
        """Create the sending end. `name` is a path, or `@` and a name of the abstract namespace."""
        self._failures = ReasonChangeLogger(_log, level=logging.ERROR)
        self._name = name
        self._address = b""
        self._socket: socket.socket | None = None
        if name is None:
            return
        address = os.fsencode(name)
        if not name.startswith(("/", "@")) or len(name) < 2:
            _log.error(
                "NOTIFY_SOCKET=%.200r is neither a path nor @name; systemd is not told", name
            )
        elif len(address) > MAX_SOCKET_PATH_LENGTH:
            _log.error("NOTIFY_SOCKET has more than %d bytes", MAX_SOCKET_PATH_LENGTH)
        else:
            self._address = b"\0" + address[1:] if name.startswith("@") else address
            self._open()

    def _open(self) -> None:
        try:
            kind = socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
            self._socket = socket.socket(socket.AF_UNIX, kind)
        except OSError as exc:
            _log.error("cannot notify systemd: %s", exc.strerror)

    @property
    def is_open(self) -> bool:
        """Whether there is a socket to send to."""
        return self._socket is not None

    def send(self, *assignments: str) -> bool:
        """Send assignments such as "READY=1" in one datagram; return whether it was accepted.

        A failure is logged once for each reason.
        """
        if self._socket is None:
            return False
        try:
            self._socket.sendto("\n".join(assignments).encode(errors="replace"), self._address)
        except OSError as exc:
            text = "cannot notify systemd at NOTIFY_SOCKET=%s: %s"
            self._failures.log(exc.errno, text, self._name, exc.strerror)
            return False
        self._failures.reset()
        return True

    def close(self) -> None:
        """Close the socket; nothing is sent any more."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None
