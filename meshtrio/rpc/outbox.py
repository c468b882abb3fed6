"""What a connection has said and the kernel has not taken yet."""

from __future__ import annotations

import trio

from meshtrio.rpc.transport import Transport

CONGESTED_ABOVE = 256 * 1024
"""Bytes that may wait for the kernel before calls wait to add to them."""


class Outbox:
    """Bytes go straight to the socket as far as it takes them; what is left waits here."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport
        self._waiting = bytearray()
        self._changed = trio.lowlevel.ParkingLot()
        self._closed = False
        self._draining = False
        self.error: OSError | None = None
        """Why the socket takes nothing any more."""

    @property
    def size(self) -> int:
        """Bytes that wait for the kernel."""
        return len(self._waiting)

    @property
    def congested(self) -> bool:
        """True while so much waits for the kernel that calls should not add to it."""
        return len(self._waiting) > CONGESTED_ABOVE

    def write(self, data: bytes) -> bool:
        """Send, or keep what cannot be sent now. Never blocks.

        True when `drain` has to be started for what is kept.
        """
        if self._draining:
            self._waiting += data
            return False
        sent = self._try_send(data)
        if sent == len(data) and not self._transport.pending:
            return False
        self._waiting += memoryview(data)[sent:]
        self._draining = True
        return True

    async def drain(self) -> None:
        """Send what waits, as the kernel takes it, until nothing does."""
        while self._waiting or (self._transport.pending and self.error is None):
            try:
                await self._transport.wait_writable()
            except OSError as exc:
                self.error = exc
            del self._waiting[: self._try_send(self._waiting)]
            if not self.congested:
                self._changed.unpark_all()
        self._draining = False
        self._changed.unpark_all()

    def _try_send(self, data: bytes | bytearray) -> int:
        """Swallows everything once the socket is broken: the reader is who ends the connection.

        It may still find a status there that the peer sent before it closed.
        """
        if self.error is None and not self._closed:
            try:
                return self._transport.try_send(data)
            except OSError as exc:
                self.error = exc
        return len(data)

    async def uncongested(self) -> None:
        """Wait until the kernel has taken most of what waits, or the connection is closed."""
        while self.congested:
            await self._changed.park()

    async def empty(self) -> None:
        """Wait until nothing waits."""
        while self._draining and not self._closed:
            await self._changed.park()

    @property
    def draining(self) -> bool:
        """True while something waits for the kernel."""
        return self._draining

    def close(self) -> None:
        self._closed = True
        self._waiting.clear()
        self._changed.unpark_all()
