"""The reading of a connection: the read loop, polls by other tasks, time slices, large messages.

The read loop is the only task that a connection always has.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from time import thread_time
from typing import TYPE_CHECKING, Any, ClassVar

import trio

from meshtrio.http2.errors import ErrorCode
from meshtrio.http2.limits import Limits
from meshtrio.rpc.connection_output import ConnectionOutput
from meshtrio.rpc.write_buffer import HIGH_WATER
from meshtrio.transport.transport import Transport

if TYPE_CHECKING:
    from meshtrio.rpc.connected_stream import ConnectedStream

_RECEIVE_SIZE = 1024 * 1024
_SMALL_READ_SIZE = 4096
"""Size of a read, in bytes, up to which it is processed at once: at most 450 frames."""
_MAX_READ_COST = 128
"""Number of frames, and of KiB of frames, that are processed between readings of the clock."""
_MAX_UNTIMED_EVENTS = 24
"""Number of events of one read below which their time is not measured."""
_SECONDS_PER_EVENT = 0.000003
"""Average time that an event takes, in seconds."""
CLOSE_TIMEOUT = 1.0
"""Seconds for which a closing connection flushes its last bytes and waits for the peer to close."""


class ConnectionIO(ConnectionOutput):
    """Adds the reading. It is what streams know of their connection."""

    events_per_write: ClassVar[int]
    """Number of events of a read for which one write is expected. The writes of the tasks that a
    read has woken are coalesced until there are that many."""

    def __init__(self, transport: Transport, limits: Limits | None) -> None:
        super().__init__(transport, limits)
        self._read_scope = trio.CancelScope()
        self._incomplete_charge = 0
        """Size of incomplete frames that is charged to the account, in bytes."""
        self._unread_ack_size = 0
        """Size of acknowledgements of PING and SETTINGS that the peer has not read, in bytes."""
        self._is_newly_established = False
        """Whether a client has just got the first SETTINGS, which ends its read loop once."""
        self._has_window_opened = False
        """Whether the current read has opened the connection's window."""
        self.streams_with_data: set[ConnectedStream] = set()
        """Streams whose window is released after the current read, which has brought DATA for them,
        or something else that `release_window` passes on."""
        self.connections_to_flush: set[ConnectionIO] = set()
        """Connections on which the current read has sent data, which are flushed after it."""
        self._event_handlers: dict[type, Callable[[Any], None]] = {}
        """What handles each event of the engine."""

    @property
    def can_poll(self) -> bool:
        """Whether `poll` may be called: polling pays, and no other task does it."""
        return self.transport.can_poll and self.loop_share.remaining >= 0

    async def poll(self, is_done: Callable[[], bool]) -> None:
        """Poll in the task of a call that waits for the peer; see `Transport.poll`."""
        await self.transport.poll(_SMALL_READ_SIZE, self._process_small_read, is_done)

    def _process_small_read(self, data: bytes) -> bool:
        """Process what `poll` has read; return whether it may go on."""
        event_count = self._process_read(data, 0)
        if event_count > _MAX_UNTIMED_EVENTS:
            self.loop_share.charge(event_count * _SECONDS_PER_EVENT)
        self._flush_after_read()
        if self._engine.closed:
            self._read_scope.cancel()  # The read loop sleeps.
            return False
        # The read loop takes more at once, waits for turns, and for the peer to read.
        return (
            len(data) < _SMALL_READ_SIZE
            and self.loop_share.remaining >= 0
            and self._unread_ack_size <= HIGH_WATER
        )

    def _process_read(self, data: bytes | memoryview, max_cost: int) -> int:
        """Process what was read, and return the number of events."""
        handle, self._last_read_at = self._event_handlers, self._now()
        new_events = self._engine.receive_data(data, self._last_read_at, max_cost)
        for event in new_events:
            handle[type(event)](event)
        event_count = len(new_events)
        new_events.clear()  # What was read is not kept alive while the connection is idle.
        return event_count

    async def _read_loop(self) -> None:
        receive, engine = self.transport.receive, self._engine
        reader = engine.frame_reader
        while not (engine.closed or self._is_newly_established):
            try:
                data = await (
                    self._receive_rest() if reader.missing_data_size else receive(_RECEIVE_SIZE)
                )
            except OSError as exc:
                self.close_reason = f"the connection broke: {exc.strerror or exc}"
                return
            if not data:
                return
            if self.loop_share.remaining < 0 and self.loop_share.charge(0.0):
                await self.loop_share.wait_for_turn()
            cost = _MAX_READ_COST if len(data) > _SMALL_READ_SIZE else 0
            event_count = self._process_read(data, cost)
            data = b""  # Not kept alive, either.
            if event_count > _MAX_UNTIMED_EVENTS or cost:
                event_count = await self._process_in_slices(event_count)
            has_flushed_others = self._flush_after_read()
            if self._unread_ack_size > HIGH_WATER:
                await self.write_buffer.wait_drained()
            writers = event_count // self.events_per_write
            if writers > 1 and not has_flushed_others:
                await self.write_coalescer.run(writers, self.flush)

    async def _receive_rest(self) -> bytes:
        """Process the rest of a large DATA frame; return what follows it, b"" at the end.

        It is received directly into the message that it is part of, if possible.
        """
        transport, share = self.transport, self.loop_share
        while (buffer := self._open_message_buffer()) is not None:
            data = await transport.receive(_RECEIVE_SIZE, buffer)
            if not data:
                return b""
            if share.remaining < 0 and share.charge(0.0):
                await share.wait_for_turn()
            began = thread_time()
            self._process_read(data, 0)
            share.charge(thread_time() - began)
            following = transport.take_overflow()
            if following:
                return following
            self._finish_read()
            if self._engine.closed:
                return b""
        return await transport.receive(_RECEIVE_SIZE)

    def _open_message_buffer(self) -> memoryview | None:
        """Return memory for the rest of a DATA frame, in the message that it is part of.

        Returns None if no large frame is incomplete, or the message has no such memory.
        """
        reader = self._engine.frame_reader
        stream = self.streams.get(reader.partial_stream_id)
        if stream is None or not reader.missing_data_size:
            return None
        buffer = stream.open_buffer(reader.missing_data_size)
        if buffer is not None:
            self._keep_message_buffers()
        return buffer

    async def _process_in_slices(self, event_count: int) -> int:
        """Process the rest of a large read, in time slices between which other peers get a turn.

        Takes the number of events that were processed already, and returns that of the last slice.
        """
        engine, share, handle = self._engine, self.loop_share, self._event_handlers
        reader = engine.frame_reader
        # Only the order of magnitude of what was processed before matters.
        began = thread_time() - event_count * _SECONDS_PER_EVENT
        while True:
            while reader.unprocessed is not None:
                more = engine.receive_data(b"", self._now(), _MAX_READ_COST)
                for event in more:
                    handle[type(event)](event)
                event_count += len(more)
                if thread_time() - began >= share.time_slice:
                    break
            must_wait = share.charge(thread_time() - began)
            if reader.unprocessed is None and not must_wait:
                return event_count
            self._finish_read()
            if self._unread_ack_size > HIGH_WATER:
                await self.write_buffer.wait_drained()
            await share.wait_for_turn()
            began, event_count = thread_time(), 0
            if reader.unprocessed is None:
                return event_count

    def _flush_after_read(self) -> bool:
        """Do what `_finish_read` does, as far as there is something to do."""
        if (
            self._has_window_opened
            or self.streams_with_data
            or self._incomplete_charge
            or self.write_buffer.size
            or self.connections_to_flush
            or self._engine.frame_reader.incomplete_since is not None
        ):
            return self._finish_read()
        self.flush()
        return False

    def _finish_read(self) -> bool:
        """Open windows and flush after a read; return whether other connections were flushed."""
        if self._incomplete_charge or self._engine.frame_reader.incomplete_since is not None:
            budget = self._charge_incomplete()
            if budget:
                self.close(f"incomplete frames exceed {budget}", ErrorCode.ENHANCE_YOUR_CALM)
        if self._has_window_opened:
            self._has_window_opened = False
            self.window_waiters.wake()
        for stream in self.streams_with_data:
            if not stream.remote_closed:
                stream.release_window()
        self.streams_with_data.clear()
        waiting = self.write_buffer.size
        self.flush()
        others = self.connections_to_flush
        has_others = bool(others)
        while others:
            others.pop().flush()
        # A peer that sends PING or SETTINGS is not read from while it does not read the replies.
        # Messages do not count: two peers that each wait for the other to read would deadlock, and
        # flow control bounds messages anyway.
        unread = self._unread_ack_size + self.write_buffer.size - waiting
        self._unread_ack_size = unread if waiting else 0
        return has_others

    async def _drain_before_close(self) -> None:
        """Flush the last data and wait for the peer to close.

        Closing a socket with unread bytes could discard data on its way to the peer.
        """
        with trio.move_on_after(CLOSE_TIMEOUT), contextlib.suppress(OSError):
            await self.write_buffer.wait_drained()
            if self._is_socket_kept_open:
                return
            self.transport.send_eof()
            while await self.transport.receive(_RECEIVE_SIZE):
                pass

    def _charge_incomplete(self) -> str:
        """Charge incomplete frames and header blocks; describe the budget that they exceed."""
        change = self._engine.frame_reader.buffered_size - self._incomplete_charge
        if self.account is None or not change:
            return ""
        self._incomplete_charge += change
        return self.account.add_incomplete(change)

    def _release_buffer_charges(self) -> None:
        """Release the charges of a connection whose write buffer is closed."""
        self._charge_write_buffer()
        if self.account is not None:
            self.account.add_incomplete(-self._incomplete_charge)
