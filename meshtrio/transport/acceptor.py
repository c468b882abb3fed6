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

from meshtrio.errors import RESOURCE_EXHAUSTED_ERRNOS

_log = logging.getLogger("meshtrio.rpc")

_OUT_OF_RESOURCES_DELAY = 0.1
"""Seconds until the next attempt when the system has no resources for a connection."""
_MAX_SPARE_DESCRIPTORS = 4
"""File descriptors that are kept for accepting when there are no others."""
_LISTENER_ERRORS = frozenset({errno.EBADF, errno.EINVAL, errno.ENOTSOCK})
"""Errors of accept(2) that mean the listening socket itself cannot be used any more. All others are
about one connection, or pass (accept(2): "Error handling")."""


class SpareDescriptors:
    """Descriptors that are given up one at a time, so that a connection can be accepted."""

    def __init__(self) -> None:
        self._descriptors: list[int] = []

    def refill(self) -> None:
        """Open as many as are missing, as far as the system has them."""
        with contextlib.suppress(OSError):
            while len(self._descriptors) < _MAX_SPARE_DESCRIPTORS:
                self._descriptors.append(os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC))

    def release(self) -> bool:
        """Give one up; False if there is none."""
        if not self._descriptors:
            return False
        os.close(self._descriptors.pop())
        return True

    def close(self) -> None:
        while self.release():
            pass


class Acceptor:
    """Hands each connection to `take(sock, exhausted)`, which owns it from there on.

    `exhausted`: the process has no descriptors left. The connection was accepted with a spare one,
    and is to be closed unless it matters more than others do.
    """

    def __init__(self, on_accept: Callable[[socket.socket, bool], None]) -> None:
        self.listener: socket.socket | None = None
        """The socket that connections are accepted on now."""
        self._on_accept = on_accept
        self._spare_descriptors = SpareDescriptors()
        self._has_logged = False
        self._is_stopped = False
        self._owner_pid = os.getpid()

    def listen(self, listener: socket.socket) -> None:
        """Accept on this socket from now on, and close the one before, if there is one."""
        before, self.listener = self.listener, listener
        if before is not None:
            self._close_listener(before)

    async def run(self) -> None:
        """Accept until `stop`, or until cancelled, which closes the socket."""
        self.refill_spare_descriptors()
        try:
            while not self._is_stopped:
                assert self.listener is not None
                await self._accept_next(self.listener)
        finally:
            if self.listener is not None and self.listener.fileno() >= 0:
                trio.lowlevel.notify_closing(self.listener)
                self.listener.close()
            self._spare_descriptors.close()

    def stop(self) -> None:
        """Accept what has connected already, and close the socket. A second call does nothing."""
        if not self._is_stopped:
            self._is_stopped = True
            if self.listener is not None:
                self._close_listener(self.listener)

    def refill_spare_descriptors(self) -> None:
        """Replace the spare descriptors that were given up, if the process has some again."""
        self._spare_descriptors.refill()

    async def _accept_next(self, listener: socket.socket) -> None:
        try:
            await trio.lowlevel.wait_readable(listener)
            self._accept(listener)
        except trio.ClosedResourceError:
            if self._is_current(listener):
                raise
        except OSError as exc:
            if not self._is_current(listener):
                return
            if exc.errno in _LISTENER_ERRORS:
                raise
            if exc.errno in RESOURCE_EXHAUSTED_ERRNOS:
                if not self._has_logged:
                    _log.error("cannot accept connections: %s; trying again", exc.strerror)
                self._has_logged = True
                await trio.sleep(_OUT_OF_RESOURCES_DELAY)

    def _is_current(self, listener: socket.socket) -> bool:
        return self.listener is listener and not self._is_stopped

    def _accept(self, listener: socket.socket) -> None:
        """Accept one connection. Raises OSError, BlockingIOError if there is none."""
        try:
            sock, _ = listener.accept()
        except OSError as exc:
            if exc.errno not in RESOURCE_EXHAUSTED_ERRNOS or not self._spare_descriptors.release():
                raise
            self._accept_with_spare(listener, exc)
        else:
            self._has_logged = False
            self._on_accept(sock, False)

    def _accept_with_spare(self, listener: socket.socket, error: OSError) -> None:
        try:
            sock, _ = listener.accept()
            if not self._has_logged:
                text = "%s: rejecting connections, except for those of the mesh and of operators"
                _log.error(text, error.strerror)
            self._has_logged = True
            self._on_accept(sock, True)
        finally:
            self.refill_spare_descriptors()

    def _close_listener(self, listener: socket.socket) -> None:
        """Close a listening socket without resetting a connection that waits to be accepted."""
        if listener.family == socket.AF_UNIX and os.getpid() == self._owner_pid:
            # From here on connecting fails with ECONNREFUSED, and what has connected stays; on TCP
            # it would be reset. A forked child leaves its parent the socket as it is.
            with contextlib.suppress(OSError):
                listener.shutdown(socket.SHUT_RD)
        with contextlib.suppress(OSError):
            while True:
                self._accept(listener)
        trio.lowlevel.notify_closing(listener)
        listener.close()
