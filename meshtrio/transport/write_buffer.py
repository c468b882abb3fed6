"""What a connection has said and the kernel has not taken yet."""

from __future__ import annotations

import itertools
from collections import deque

import trio

from meshtrio.transport.transport import Buffer, Transport

HIGH_WATER = 256 * 1024
"""Bytes that may wait for the kernel before calls wait to add to them."""

_MAX_JOINED_BUFFERS = 8
"""Pieces, of a frame's size at the most, that are copied into one: less work than several are."""
_MAX_SENDMSG_BUFFERS = 256
"""Pieces for one system call; the kernel takes 1,024."""


def _unsent(buffers: list[Buffer], sent: int) -> list[Buffer]:
    """What is left of buffers of which `sent` bytes went out."""
    for number, buffer in enumerate(buffers):
        if sent < len(buffer):
            return [memoryview(buffer)[sent:], *buffers[number + 1 :]]
        sent -= len(buffer)
    return []


class WriteBuffer:
    """Bytes go straight to the socket as far as it takes them; what is left waits here."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport
        self._buffers: deque[Buffer] = deque()
        self.size = 0
        """Bytes that wait for the kernel."""
        self.drained_size = 0
        """Number of bytes, since the start, that had to wait and then went out."""
        self._waiters = trio.lowlevel.ParkingLot()
        self._is_closed = False
        self._is_draining = False
        self.error: OSError | None = None
        """Why the socket takes nothing any more."""

    @property
    def queued_until(self) -> int:
        """Value of `drained_size` once all that waits now has gone out."""
        return self.drained_size + self.size

    @property
    def above_high_water(self) -> bool:
        """True while so much waits for the kernel that calls should not add to it."""
        return self.size > HIGH_WATER

    def write(self, buffers: list[Buffer]) -> bool:
        """Send, or keep what cannot be sent now. Never blocks.

        True when `drain` has to be started for what is kept.
        """
        if len(buffers) <= _MAX_JOINED_BUFFERS:
            buffers = [b"".join(buffers)]
        size = sum(map(len, buffers))
        if not self._is_draining:
            sent = self._try_send(buffers, size)
            if sent == size and not self._transport.has_pending_data:
                return False
            buffers = _unsent(buffers, sent)
            size -= sent
        self._buffers += buffers
        self.size += size
        started, self._is_draining = self._is_draining, True
        return not started

    async def drain(self) -> None:
        """Send what waits, as the kernel takes it, until nothing does."""
        while self.size or (self._transport.has_pending_data and self.error is None):
            try:
                await self._transport.wait_writable()
            except OSError as exc:
                self.error = exc
            self._send_some()
            if not self.above_high_water:
                self._waiters.unpark_all()
        self._is_draining = False
        self._waiters.unpark_all()

    def _send_some(self) -> None:
        buffers = list(itertools.islice(self._buffers, _MAX_SENDMSG_BUFFERS))
        sent = self._try_send(buffers, sum(map(len, buffers)))
        self.size -= sent
        if self.error is None:
            self.drained_size += sent
        for _ in buffers:
            self._buffers.popleft()
        self._buffers.extendleft(reversed(_unsent(buffers, sent)))

    def _try_send(self, buffers: list[Buffer], size: int) -> int:
        """Swallows everything once the socket is broken: the reader is who ends the connection.

        It may still find a status there that the peer sent before it closed.
        """
        if self.error is None and not self._is_closed:
            try:
                return self._transport.try_send(buffers[:_MAX_SENDMSG_BUFFERS])
            except OSError as exc:
                self.error = exc
        return size

    async def wait_below_high_water(self) -> None:
        """Wait until the kernel has taken most of what waits, or the connection is closed."""
        while self.above_high_water:
            await self._waiters.park()

    async def wait_drained(self) -> None:
        """Wait until nothing waits."""
        while self._is_draining and not self._is_closed:
            await self._waiters.park()

    def close(self) -> None:
        self._is_closed = True
        self._buffers.clear()
        self.size = 0
        self._waiters.unpark_all()
