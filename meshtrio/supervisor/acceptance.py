"""Finds out whether a process run has accepted a connection to a socket that the mesh holds.

A connection to such a socket succeeds before any process accepts it. So a health check waits for
that, which also tells a server that has not started from one that does not answer. While a process
is replaced, two process runs accept connections from one socket: the check of each of them counts
only if one of its own processes has accepted the connection.
"""

from __future__ import annotations

import socket
import time

import trio

from meshtrio.supervisor.held_socket import HeldSocket
from meshtrio.supervisor.process.cleanup.process_tree import ProcessTree, find_holder
from meshtrio.supervisor.process.proc.accepted_sockets import find_accepted_inode

_MIN_POLL_INTERVAL, _MAX_POLL_INTERVAL = 0.001, 0.05


class UnknownAcceptorError(Exception):
    """It is not known which process has accepted a connection."""


class AcceptanceCheck:
    """Checks connections of the mesh for one process run."""

    def __init__(self, owner: ProcessTree) -> None:
        self._owner = owner
        self._was_accepted = False
        """Whether the run has accepted a connection, as far as that can be known."""
        self.lookup_time = 0.0
        """Seconds that it took to look at all processes of the machine; 0 if it was not needed."""

    async def wait_accepted(self, sock: socket.socket, held: HeldSocket) -> bool:
        """Wait until a connection to `held` is accepted; return whether the run has done that.

        Raises:
            UnknownAcceptorError: That is not known, nor that the run has ever accepted one.
            RuntimeError: No thread can be started.
        """
        inode = await _wait_for_inode(sock)
        if not held.is_shared:
            self._was_accepted = True
            return True
        if inode == 0:
            return True  # The connection is closed: the check will find that.
        is_own = None if inode is None else await self._is_held(inode, held)
        if is_own is None and not self._was_accepted:
            raise UnknownAcceptorError(
                "the process that it replaces may have answered: the mesh cannot find out which of "
                "them did (it may not read their descriptors, for which it needs CAP_SYS_PTRACE if "
                "they run as another user)"
            )
        self._was_accepted = self._was_accepted or bool(is_own)
        return is_own is not False

    async def _is_held(self, inode: int, held: HeldSocket) -> bool | None:
        try:
            return await trio.to_thread.run_sync(
                self._look_up, inode, tuple(held.trees), abandon_on_cancel=True
            )
        except OSError:
            return None

    def _look_up(self, inode: int, trees: tuple[ProcessTree, ...]) -> bool | None:
        holder, self.lookup_time = find_holder(trees, inode), 0.0
        if holder is not None:
            return holder == self._owner
        started_at = time.monotonic()
        try:
            return self._owner.holds_sockets([inode])
        finally:
            self.lookup_time = time.monotonic() - started_at


async def _wait_for_inode(sock: socket.socket) -> int | None:
    """Wait until a connection is accepted, and return the inode of the accepted socket.

    Returns 0 if the connection was closed, and None if the kernel does not tell.
    """
    pause = _MIN_POLL_INTERVAL
    while True:
        with trio.move_on_after(pause) as scope:
            await trio.lowlevel.wait_readable(sock)
        try:
            inode = find_accepted_inode(sock)
        except OSError:
            return None
        if inode or not scope.cancelled_caught:
            return inode
        pause = min(2 * pause, _MAX_POLL_INTERVAL)
