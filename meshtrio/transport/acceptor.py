"""Accepting connections on a listening socket, even without free file descriptors.

Order of calls: `listen`, `run`, then `listen` again to change to another socket, and `stop`. The
acceptor owns the listening socket from `listen` on. Before `listen` or `stop` closes a socket, the
connections in its backlog are accepted, so that none of them is reset; those of a `PassedListener`
are left in it.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import socket
from collections.abc import Callable

import trio

from meshtrio.transport.listener import PassedListener
from meshtrio.util.errors import RESOURCE_EXHAUSTED_ERRNOS
from meshtrio.util.log_once import ReasonChangeLogger

_log = logging.getLogger("meshtrio.rpc")

_OUT_OF_RESOURCES = "out of resources"
"""The reason under which failures are logged, of which only the first one is."""
_OUT_OF_RESOURCES_DELAY = 0.1
"""Seconds until the next attempt if the system has no resources for a connection."""
_MAX_SPARE_DESCRIPTORS = 4
"""Number of file descriptors that are reserved for accepting connections."""
_LISTENER_ERRORS = frozenset({errno.EBADF, errno.EINVAL, errno.ENOTSOCK})
"""Errors of accept(2) after which the listening socket is unusable.

All others concern a single connection, or are temporary (accept(2), "Error handling").
"""


class SpareDescriptors:
    """Reserved file descriptors, each of which is closed to accept a connection."""

    def __init__(self) -> None:
        self._descriptors: list[int] = []
        self._is_closed = False

    def refill(self) -> None:
        """Open missing descriptors, as far as the system has some."""
        with contextlib.suppress(OSError):
            while not self._is_closed and len(self._descriptors) < _MAX_SPARE_DESCRIPTORS:
                self._descriptors.append(os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC))

    def release(self) -> bool:
        """Close one; return False if there is none."""
        if not self._descriptors:
            return False
        os.close(self._descriptors.pop())
        return True

    def close(self) -> None:
        """Close all of them, and open no others."""
        self._is_closed = True
        while self.release():
            pass


class AcceptGate:
    """Whether connections are accepted in this process; others wait in the backlogs meanwhile."""

    def __init__(self) -> None:
        self._opened: trio.Event | None = None

    @property
    def is_closed(self) -> bool:
        """Whether no connection is accepted."""
        return self._opened is not None

    def close(self) -> None:
        """Accept no connection until `open`."""
        self._opened = self._opened or trio.Event()

    def open(self) -> None:
        """Accept connections again."""
        if self._opened is not None:
            self._opened.set()
            self._opened = None

    async def wait_until_open(self) -> None:
        """Wait for `open`."""
        if self._opened is not None:
            await self._opened.wait()


ACCEPT_GATE = AcceptGate()


class Acceptor:
    """Passes each connection to `on_accept(sock, out_of_descriptors)`, which then owns it.

    If `out_of_descriptors` is true the connection was accepted with a reserved descriptor, and is
    to be closed unless it is more important than others.
    """

    def __init__(self, on_accept: Callable[[socket.socket, bool], None]) -> None:
        self.listener: socket.socket | None = None
        """The current listening socket."""
        self._on_accept = on_accept
        self.spare_descriptors = SpareDescriptors()
        self._failure_log = ReasonChangeLogger(_log, level=logging.ERROR)
        self._is_stopped = False
        self._owner_pid = os.getpid()

    def listen(self, listener: socket.socket) -> None:
        """Accept on this socket from now on, and close the previous one."""
        previous, self.listener = self.listener, listener
        if previous is not None:
            self._close_listener(previous)

    async def run(self) -> None:
        """Accept connections until `stop`.

        Raises:
            OSError: The listening socket is unusable.

        Cancellation: the socket is closed.
        """
        self.spare_descriptors.refill()
        try:
            while not self._is_stopped:
                assert self.listener is not None
                await self._accept_next(self.listener)
        finally:
            if self.listener is not None and self.listener.fileno() >= 0:
                trio.lowlevel.notify_closing(self.listener)
                self.listener.close()
            self.spare_descriptors.close()

    def stop(self) -> None:
        """Accept the backlog and close the socket; a second call does nothing."""
        if not self._is_stopped:
            self._is_stopped = True
            if self.listener is not None:
                self._close_listener(self.listener)

    async def _accept_next(self, listener: socket.socket) -> None:
        try:
            await trio.lowlevel.wait_readable(listener)
            if ACCEPT_GATE.is_closed:
                await ACCEPT_GATE.wait_until_open()
                return
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
                text = "cannot accept connections: %s; trying again"
                self._failure_log.log(_OUT_OF_RESOURCES, text, exc.strerror)
                await trio.sleep(_OUT_OF_RESOURCES_DELAY)

    def _is_current(self, listener: socket.socket) -> bool:
        return self.listener is listener and not self._is_stopped

    def _accept(self, listener: socket.socket) -> None:
        """Accept one connection. Raises OSError; BlockingIOError if there is none."""
        try:
            sock, _ = listener.accept()
        except OSError as exc:
            if exc.errno not in RESOURCE_EXHAUSTED_ERRNOS or not self.spare_descriptors.release():
                raise
            try:
                sock, _ = listener.accept()
                text = "%s: rejecting connections, except for those of the mesh and of operators"
                self._failure_log.log(_OUT_OF_RESOURCES, text, exc.strerror)
                self._on_accept(sock, True)
            finally:
                self.spare_descriptors.refill()
        else:
            self._failure_log.reset()
            self._on_accept(sock, False)

    def _close_listener(self, listener: socket.socket) -> None:
        """Close a listening socket without resetting the connections in its backlog."""
        if isinstance(listener, PassedListener):
            trio.lowlevel.notify_closing(listener)
            listener.close()
            return
        if listener.family == socket.AF_UNIX and os.getpid() == self._owner_pid:
            # Further connects fail with ECONNREFUSED, and the backlog remains; on TCP it would be
            # reset. A forked child must not shut down its parent's socket.
            with contextlib.suppress(OSError):
                listener.shutdown(socket.SHUT_RD)
        with contextlib.suppress(OSError):
            while True:
                self._accept(listener)
        trio.lowlevel.notify_closing(listener)
        listener.close()
