"""The writes of a connection: several coalesced into one, and what the kernel has not taken yet."""

from __future__ import annotations

import itertools
import math
from collections import deque
from collections.abc import Callable
from time import perf_counter

import trio

from meshtrio.transport.transport import Buffer, Transport

HIGH_WATER = 256 * 1024
"""Size of the write buffer, in bytes, above which calls wait before they add to it."""
_MAX_JOINED_SIZE = 64 * 1024
"""Size of buffers, in bytes, up to which they are copied into one: for 150 buffers of 60 bytes that
takes three quarters of the time, and for four of 16 KiB as long as without copying."""
_MAX_SENDMSG_BUFFERS = 256
"""Number of buffers for one system call; the kernel takes at most 1,024."""
_MAX_WRITE_DELAY = 0.0005
"""Maximum time, in seconds, for which a write is delayed."""
_MAX_BATCH_SIZE = 16 * 1024
"""Size of messages, in bytes, from which on a flush of more at a time saves little."""


def _unsent(buffers: list[Buffer], sent: int) -> list[Buffer]:
    """Return the rest of buffers of which `sent` bytes were sent."""
    for number, buffer in enumerate(buffers):
        if sent < len(buffer):
            return [memoryview(buffer)[sent:], *buffers[number + 1 :]]
        sent -= len(buffer)
    return []


class WriteBuffer:
    """Sends data directly to the transport, and keeps what the kernel does not take.

    Invariant: while data is kept, one task runs `drain`, and `write` only appends.
    """

    def __init__(self, transport: Transport) -> None:
        self._transport = transport
        self._buffers: deque[Buffer] = deque()
        self.size = 0
        """Size of the data that waits for the kernel, in bytes."""
        self.drained_size = 0
        """Number of bytes, since the start, that had to wait and then went out."""
        self._waiters = trio.lowlevel.ParkingLot()
        self._is_closed = False
        self._is_draining = False
        self.error: OSError | None = None
        """The error after which the transport takes no more data."""

    @property
    def above_high_water(self) -> bool:
        """Whether calls must wait before they add to the buffer."""
        return self.size > HIGH_WATER

    def write(self, buffers: list[Buffer]) -> bool:
        """Send buffers, or keep what cannot be sent now; return whether to start `drain`."""
        size = sum(map(len, buffers)) if len(buffers) > 1 else len(buffers[0])
        if size > _MAX_JOINED_SIZE:
            self._transport.malloc_tuning.tune()
        elif len(buffers) > 1:
            buffers = [b"".join(buffers)]
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
        """Send the kept data as the kernel takes it, until none is left."""
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
        """Send buffers; discard them once the transport is broken.

        The read loop ends the connection, as it may still read a status that the peer has sent.
        """
        if self.error is None and not self._is_closed:
            try:
                if len(buffers) > _MAX_SENDMSG_BUFFERS:
                    buffers = buffers[:_MAX_SENDMSG_BUFFERS]
                return self._transport.try_send(buffers)
            except OSError as exc:
                self.error = exc
        return size

    async def wait_below_high_water(self) -> None:
        """Wait until the kernel has taken most of the data, or the connection is closed."""
        while self.above_high_water:
            await self._waiters.park()

    async def wait_drained(self) -> None:
        """Wait until all data was sent, or the connection is closed."""
        while self._is_draining and not self._is_closed:
            await self._waiters.park()

    def close(self) -> None:
        """Discard the data and wake all waiting tasks."""
        self._is_closed = True
        self._buffers.clear()
        self.size = 0
        self._waiters.unpark_all()


class MessageBatch:
    """Delays the flush of messages that one task sends without waiting in between.

    The task calls `flush` before it waits, see `call_before_waiting`. A message is flushed at once
    if the task has needed longer for it than writes may be delayed: it may need as long for the
    next one, without waiting.
    """

    __slots__ = ("_flush", "_oldest_at", "_previous_at", "_size")

    def __init__(self, flush: Callable[[], None]) -> None:
        """`flush` writes the connection's data."""
        self._flush = flush
        self._size = 0
        """Size of the messages that are not flushed, in bytes."""
        self._oldest_at = 0.0
        """Time of the message before those that are not flushed."""
        self._previous_at = -math.inf

    def add(self, size: int) -> None:
        """Count a message that was sent but not flushed, and flush if that is due."""
        now, previous_at = perf_counter(), self._previous_at
        self._previous_at = now
        if not self._size:
            self._oldest_at = previous_at
        self._size += size
        if self._size > _MAX_BATCH_SIZE or now - self._oldest_at > _MAX_WRITE_DELAY:
            self.flush()

    def flush(self) -> None:
        """Write the messages, if there are any."""
        if self._size:
            self._size = 0
            self._flush()


class WriteCoalescer:
    """Delays the writes of a connection while several of its tasks are about to write."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self.max_delay = _MAX_WRITE_DELAY
        """Maximum time, in seconds, for which a write is delayed."""
        self.expected_writers = 0
        """Number of tasks whose writes are coalesced; 0 if writes are not delayed."""
        self._writers_seen = 0
        self._flush_at = 0.0
        """Time at which the writes of fewer tasks are flushed."""

    def expect(self, count: int) -> None:
        """Delay writes until `count` tasks have written or the time is over; `run` ends this."""
        self.expected_writers, self._writers_seen = count, 0
        self._flush_at = self._now() + self.max_delay

    async def run(self, count: int, flush: Callable[[], None]) -> None:
        """Coalesce the writes of `count` tasks that were just woken, then flush.

        It takes two passes of the scheduler, in which a woken task runs; slower ones write alone.
        """
        self.expect(count)
        try:
            await trio.lowlevel.cancel_shielded_checkpoint()
            await trio.lowlevel.cancel_shielded_checkpoint()
        finally:
            self.expected_writers = 0
            flush()

    def should_delay(self) -> bool:
        """Count a write, and return whether to delay it because others are expected."""
        self._writers_seen += 1
        now = self._now()
        if self._writers_seen < self.expected_writers and now < self._flush_at:
            return True
        self._writers_seen, self._flush_at = 0, now + self.max_delay
        return False
