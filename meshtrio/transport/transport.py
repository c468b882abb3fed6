"""The byte stream under a connection: a non-blocking socket.

The stdlib socket is used directly, and trio only waits on it: a write that the kernel takes at
once, which is nearly every one, then costs one system call and no trip through the scheduler.
"""

from __future__ import annotations

import socket
from time import perf_counter
from typing import TYPE_CHECKING, Protocol

import trio

from meshtrio.transport.busy_poll import MAX_SPIN, BusyPoll
from meshtrio.transport.peer import Peer, peer_of
from meshtrio.util.malloc_tuning import MALLOC_TUNING

if TYPE_CHECKING:
    import ssl  # few processes need it

_SEND_BUFFER_SIZE = 1024 * 1024
_MIN_RECEIVE_SIZE = 16 * 1024
_LARGE_RECEIVE_SIZE = 256 * 1024
"""Bytes that come at once only where large messages do."""

Buffer = bytes | memoryview


class Transport(Protocol):
    """What a connection asks of its byte stream."""

    async def handshake(self) -> None:
        """What comes before the first byte, if anything does. Raises OSError."""

    async def receive(self, max_bytes: int) -> bytes: ...

    def try_send(self, buffers: list[Buffer]) -> int: ...

    @property
    def has_pending_data(self) -> bool:
        """True while something that `try_send` took waits for the kernel."""

    async def wait_writable(self) -> None: ...

    def peer(self) -> Peer:
        """Who is at the other end. Raises OSError where the connection is gone."""

    @property
    def sock(self) -> socket.socket:
        """What the bytes go through, to look at."""

    @property
    def ssl_object(self) -> ssl.SSLObject | None:
        """What they are encrypted by, to look at; None where they are not."""

    def send_eof(self) -> None: ...

    def close(self) -> None: ...


class SocketTransport:
    """Owns its socket from construction until `close`."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        if sock.family in (socket.AF_INET, socket.AF_INET6):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        else:
            # The kernel's default holds 200 KB: a large message would be handed over in pieces,
            # with a change of process for each. It costs nothing while it is not used.
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER_SIZE)
        self._sock = sock
        self._receive_size = _MIN_RECEIVE_SIZE
        self._busy_poll = BusyPoll()

    async def handshake(self) -> None:
        """Nothing comes before the first byte."""

    async def receive(self, max_bytes: int) -> bytes:
        """Wait for at most `most` bytes; b"" at the end. Raises OSError when the socket breaks.

        Waits before it reads, so that every call is a checkpoint and a peer that never pauses
        cannot keep other tasks from running. Cancellation loses nothing.
        """
        began = perf_counter()
        spun = self._busy_poll.is_worthwhile
        data = await self._poll_until(began + MAX_SPIN, max_bytes) if spun else None
        while data is None:
            await trio.lowlevel.wait_readable(self._sock)
            data = self._try_receive(max_bytes)
        self._busy_poll.record_wait(perf_counter() - began, polled=spun)
        return data

    async def _poll_until(self, deadline: float, max_bytes: int) -> bytes | None:
        """Other tasks run meanwhile; only the process does not go to sleep."""
        data = None
        while data is None and perf_counter() < deadline:
            await trio.lowlevel.checkpoint()
            data = self._try_receive(max_bytes)
        return data

    def _try_receive(self, max_bytes: int) -> bytes | None:
        """What is there, None for nothing."""
        try:
            data = self._sock.recv(min(self._receive_size, max_bytes))
        except (BlockingIOError, InterruptedError):
            return None
        # The room that is asked for is allocated, so it follows what has been coming.
        if len(data) == self._receive_size:
            self._receive_size *= 4
            if self._receive_size > _LARGE_RECEIVE_SIZE:
                MALLOC_TUNING.tune()
        elif self._receive_size > _MIN_RECEIVE_SIZE and len(data) * 4 < self._receive_size:
            self._receive_size //= 4
        return data

    def try_send(self, buffers: list[Buffer]) -> int:
        """Write what the kernel takes now, give the number of bytes. Raises OSError."""
        try:
            if len(buffers) == 1:
                return self._sock.send(buffers[0])
            return self._sock.sendmsg(buffers)
        except (BlockingIOError, InterruptedError):
            return 0

    @property
    def has_pending_data(self) -> bool:
        return False

    async def wait_writable(self) -> None:
        await trio.lowlevel.wait_writable(self._sock)

    def peer(self) -> Peer:
        return peer_of(self._sock)

    @property
    def sock(self) -> socket.socket:
        return self._sock

    @property
    def ssl_object(self) -> ssl.SSLObject | None:
        return None

    def send_eof(self) -> None:
        """Say that nothing more will be sent. Raises OSError."""
        self._sock.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        """Close the socket, waking who waits on it; a second call does nothing."""
        if self._sock.fileno() >= 0:
            trio.lowlevel.notify_closing(self._sock)
            self._sock.close()
