"""Accepting connections on a listening socket, also when file descriptors run out.

Order of calls: `listen`, `run`, then `listen` again to change to another socket, `stop` to end.
The acceptor owns the listening socket from `listen` on. What a client has connected to before
`listen` or `stop` closes a socket is accepted first, so that no connection is reset unread.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import socket
from collections.abc import Callable

import trio

from meshtrio.errors import OUT_OF_RESOURCES

_log = logging.getLogger("meshtrio.rpc")

_PAUSE_WHEN_OUT = 0.1
"""Seconds until the next attempt when the system has no resources for a connection."""
_MAX_SPARE = 4
"""File descriptors that are kept for accepting when there are no others."""
_LISTENER_CLOSED = frozenset({errno.EBADF, errno.EINVAL, errno.ENOTSOCK})
"""Errors of accept(2) that mean the listening socket itself cannot be used any more. All others are
about one connection, or pass (accept(2): "Error handling")."""


class SpareDescriptors:
    """Descriptors that are given up one at a time, so that a connection can be accepted."""

    def __init__(self) -> None:
        self._kept: list[int] = []

    def fill(self) -> None:
        """Open as many as are missing, as far as the system has them."""
        with contextlib.suppress(OSError):
            while len(self._kept) < _MAX_SPARE:
                self._kept.append(os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC))

    def release(self) -> bool:
        """Give one up; False if there is none."""
        if not self._kept:
            return False
        os.close(self._kept.pop())
        return True

    def close(self) -> None:
        while self.release():
            pass


class Acceptor:
    """Hands each connection to `take(sock, exhausted)`, which owns it from there on.

    `exhausted`: the process has no descriptors left. The connection was accepted with a spare one,
    and is to be closed unless it matters more than others do.
    """

    def __init__(self, take: Callable[[socket.socket, bool], None]) -> None:
        self.listener: socket.socket | None = None
        """The socket that connections are accepted on now."""
        self._take = take
        self._spare = SpareDescriptors()
        self._logged = False
        self._stopped = False
        self._pid = os.getpid()

    def listen(self, listener: socket.socket) -> None:
        """Accept on this socket from now on, and close the one before, if there is one."""
        before, self.listener = self.listener, listener
        if before is not None:
            self._close(before)

    async def run(self) -> None:
        """Accept until `stop`, or until cancelled, which closes the socket."""
        self.refill()
        try:
            while not self._stopped:
                assert self.listener is not None
                await self._accept_next(self.listener)
        finally:
            if self.listener is not None and self.listener.fileno() >= 0:
                trio.lowlevel.notify_closing(self.listener)
                self.listener.close()
            self._spare.close()

    def stop(self) -> None:
        """Accept what has connected already, and close the socket. A second call does nothing."""
        if not self._stopped:
            self._stopped = True
            if self.listener is not None:
                self._close(self.listener)

    def refill(self) -> None:
        """Replace the spare descriptors that were given up, if the process has some again."""
        self._spare.fill()

    async def _accept_next(self, listener: socket.socket) -> None:
        try:
            await trio.lowlevel.wait_readable(listener)
            self._accept(listener)
        except trio.ClosedResourceError:
            if self._uses(listener):
                raise
        except OSError as exc:
            if not self._uses(listener):
                return
            if exc.errno in _LISTENER_CLOSED:
                raise
            if exc.errno in OUT_OF_RESOURCES:
                if not self._logged:
                    _log.error("cannot accept connections: %s; trying again", exc.strerror)
                self._logged = True
                await trio.sleep(_PAUSE_WHEN_OUT)

    def _uses(self, listener: socket.socket) -> bool:
        return self.listener is listener and not self._stopped

    def _accept(self, listener: socket.socket) -> None:
        """Accept one connection. Raises OSError, BlockingIOError if there is none."""
        try:
            sock, _ = listener.accept()
        except OSError as exc:
            if exc.errno not in OUT_OF_RESOURCES or not self._spare.release():
                raise
            self._accept_with_spare(listener, exc)
        else:
            self._logged = False
            self._take(sock, False)

    def _accept_with_spare(self, listener: socket.socket, lack: OSError) -> None:
        try:
            sock, _ = listener.accept()
            if not self._logged:
                text = "%s: rejecting connections, except for those of the mesh and of operators"
                _log.error(text, lack.strerror)
            self._logged = True
            self._take(sock, True)
        finally:
            self.refill()

    def _close(self, listener: socket.socket) -> None:
        """Close a listening socket without resetting a connection that waits to be accepted."""
        if listener.family == socket.AF_UNIX and os.getpid() == self._pid:
            # From here on connecting fails with ECONNREFUSED, and what has connected stays; on TCP
            # it would be reset. A forked child leaves its parent the socket as it is.
            with contextlib.suppress(OSError):
                listener.shutdown(socket.SHUT_RD)
        with contextlib.suppress(OSError):
            while True:
                self._accept(listener)
        trio.lowlevel.notify_closing(listener)
        listener.close()
