"""What a connection has said and the kernel has not taken yet."""

from __future__ import annotations

import itertools
from collections import deque

import trio

from meshtrio.rpc.transport import Buffer, Transport

CONGESTED_ABOVE = 256 * 1024
"""Bytes that may wait for the kernel before calls wait to add to them."""

_JOINED_UP_TO = 8
"""Pieces, of a frame's size at the most, that are copied into one: less work than several are."""
_MOST_BUFFERS = 256
"""Pieces for one system call; the kernel takes 1,024."""


def _rest(buffers: list[Buffer], sent: int) -> list[Buffer]:
    """What is left of buffers of which `sent` bytes went out."""
    for number, buffer in enumerate(buffers):
        if sent < len(buffer):
            return [memoryview(buffer)[sent:], *buffers[number + 1 :]]
        sent -= len(buffer)
    return []


class Outbox:
    """Bytes go straight to the socket as far as it takes them; what is left waits here."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport
        self._waiting: deque[Buffer] = deque()
        self.size = 0
        """Bytes that wait for the kernel."""
        self._changed = trio.lowlevel.ParkingLot()
        self._closed = False
        self._draining = False
        self.error: OSError | None = None
        """Why the socket takes nothing any more."""

    @property
    def congested(self) -> bool:
        """True while so much waits for the kernel that calls should not add to it."""
        return self.size > CONGESTED_ABOVE

    def write(self, buffers: list[Buffer]) -> bool:
        """Send, or keep what cannot be sent now. Never blocks.

        True when `drain` has to be started for what is kept.
        """
        if len(buffers) <= _JOINED_UP_TO:
            buffers = [b"".join(buffers)]
        size = sum(map(len, buffers))
        if not self._draining:
            sent = self._try_send(buffers, size)
            if sent == size and not self._transport.pending:
                return False
            buffers = _rest(buffers, sent)
            size -= sent
        self._waiting += buffers
        self.size += size
        started, self._draining = self._draining, True
        return not started

    async def drain(self) -> None:
        """Send what waits, as the kernel takes it, until nothing does."""
        while self.size or (self._transport.pending and self.error is None):
            try:
                await self._transport.wait_writable()
            except OSError as exc:
                self.error = exc
            self._send_some()
            if not self.congested:
                self._changed.unpark_all()
        self._draining = False
        self._changed.unpark_all()

    def _send_some(self) -> None:
        buffers = list(itertools.islice(self._waiting, _MOST_BUFFERS))
        sent = self._try_send(buffers, sum(map(len, buffers)))
        self.size -= sent
        for _ in buffers:
            self._waiting.popleft()
        self._waiting.extendleft(reversed(_rest(buffers, sent)))

    def _try_send(self, buffers: list[Buffer], size: int) -> int:
        """Swallows everything once the socket is broken: the reader is who ends the connection.

        It may still find a status there that the peer sent before it closed.
        """
        if self.error is None and not self._closed:
            try:
                return self._transport.try_send(buffers[:_MOST_BUFFERS])
            except OSError as exc:
                self.error = exc
        return size

    async def uncongested(self) -> None:
        """Wait until the kernel has taken most of what waits, or the connection is closed."""
        while self.congested:
            await self._changed.park()

    async def empty(self) -> None:
        """Wait until nothing waits."""
        while self._draining and not self._closed:
            await self._changed.park()

    def close(self) -> None:
        self._closed = True
        self._waiting.clear()
        self.size = 0
        self._changed.unpark_all()
