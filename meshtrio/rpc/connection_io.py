"""Reading and writing of a connection: the read loop, time slices, flushes, memory of buffers.

The read loop is the only task that a connection always has. Data is written by the task that sends
it, directly to the socket; another task writes only while the kernel's buffer is full.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Awaitable, Callable
from functools import cached_property
from time import thread_time
from typing import TYPE_CHECKING, Any, ClassVar

import trio

from meshtrio.grpc.connection import GrpcConnection
from meshtrio.http2.connection import Role
from meshtrio.http2.errors import ErrorCode
from meshtrio.http2.limits import Limits
from meshtrio.rpc.fairness import EventLoopShare
from meshtrio.rpc.message_limits import default_message_limits
from meshtrio.rpc.peer_accounts import ConnectionAccount
from meshtrio.rpc.stats import CallCounters
from meshtrio.rpc.window_waiters import WindowWaiters
from meshtrio.rpc.write_buffer import HIGH_WATER, WriteBuffer, WriteCoalescer
from meshtrio.transport.peer import Peer
from meshtrio.transport.transport import Transport
from meshtrio.util.message_buffers import MESSAGE_BUFFERS

if TYPE_CHECKING:
    from meshtrio.rpc.connected_stream import ConnectedStream

_log = logging.getLogger("meshtrio.rpc")

_RECEIVE_SIZE = 1024 * 1024
_SMALL_READ_SIZE = 4096
"""Size of a read, in bytes, up to which it is processed at once: at most 450 frames."""
_MAX_READ_COST = 128
"""Number of frames, and of KiB of frames, that are processed between readings of the clock."""
_MAX_UNTIMED_EVENTS = 24
"""Number of events of one read below which their time is not measured."""
_SECONDS_PER_EVENT = 0.000003
"""Average time that an event takes, in seconds."""
_TLS_HANDSHAKE_TIMEOUT = 10.0
"""Maximum time of a TLS handshake, in seconds."""
CLOSE_TIMEOUT = 1.0
"""Seconds for which a closing connection flushes its last bytes and waits for the peer to close."""


class ConnectionIO:
    """Owns the transport, the engine and the write buffer of a connection.

    It is what streams know of their connection.
    """

    streams: dict[int, ConnectedStream]
    """The streams of the calls that have not ended, by stream identifier."""

    is_client: ClassVar[bool]

    events_per_write: ClassVar[int]
    """Number of events of a read for which one write is expected. The writes of the tasks that a
    read has woken are coalesced until there are that many."""

    def __init__(self, transport: Transport, limits: Limits | None) -> None:
        role = Role.CLIENT if self.is_client else Role.SERVER
        self._engine = engine = GrpcConnection(role, limits)
        self.limits, self.windows = engine.limits, engine.windows
        self.peer_settings = engine.peer_settings
        # Bound once, because every message goes through them.
        self.is_send_open = engine.is_send_open
        self.send_headers = engine.send_headers
        self.send_data = engine.send_data
        self.try_send_message = engine.try_send_message
        self.set_receive_window = engine.set_receive_window
        self.message_limits = default_message_limits(engine.limits, is_client=self.is_client)
        self.counters = CallCounters()
        self.closed = False
        """Whether no call can be started or continued; sent data may still be flushed."""
        self.close_reason = "the peer closed the connection"
        """The reason reported to pending calls when the connection closes; updated until then."""
        self.transport = transport
        self._now = trio.lowlevel.current_clock().current_time
        """The same as `trio.current_time`, at half the cost."""
        self._opened_at = self._last_read_at = self._now()
        self._is_socket_kept_open = False
        """Whether a copy of the socket stays open until the process has exited."""
        self._is_handshake_done = False
        """Whether the transport accepts data."""
        self._nursery: trio.Nursery | None = None
        self._read_scope = trio.CancelScope()
        self.write_buffer = WriteBuffer(transport)
        self.write_coalescer = WriteCoalescer(self._now)
        self.window_waiters = WindowWaiters(engine.windows, self.write_buffer, self.start_soon)
        self.account: ConnectionAccount | None = None
        """The account of the memory that the connection's calls use, on a server."""
        self.loop_share = EventLoopShare()
        """The peer's share of the event loop."""
        self._incomplete_charge = 0
        """Size of incomplete frames that is charged to the account, in bytes."""
        self._write_buffer_charge = 0
        """Size of the write buffer that is charged to the account, in bytes."""
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

    def close(self, reason: str, code: ErrorCode = ErrorCode.NO_ERROR) -> None:
        """Send GOAWAY and close; open calls fail with `reason`. Does not wait."""
        raise NotImplementedError

    def remove_stream(self, stream_id: int, code: ErrorCode) -> None:
        """Remove a stream, and reset it unless the peer knows that it has ended."""
        raise NotImplementedError

    def start_soon(self, task: Callable[..., Awaitable[object]], *args: object) -> None:
        """Start a task that is cancelled with the connection; does nothing once it is closed."""
        if self.closed or self._nursery is None:
            return
        with contextlib.suppress(RuntimeError):  # The nursery is closing, and calls will fail.
            self._nursery.start_soon(task, *args)

    @cached_property
    def peer(self) -> Peer:
        """The peer, as the kernel or TLS identifies it; an empty `Peer` if it is gone already."""
        try:
            return self.transport.peer()
        except OSError:
            return Peer()

    # -- reading -----------------------------------------------------------------------------

    def send_preface(self) -> None:
        """Send the connection preface before `run` does, a turn earlier, if no handshake is due."""
        if type(self.transport) is Transport:
            self._is_handshake_done = True
            self.flush()

    async def _handshake(self) -> bool:
        if self._is_handshake_done:
            return True
        try:
            with trio.fail_after(_TLS_HANDSHAKE_TIMEOUT):
                await self.transport.handshake()
        except trio.TooSlowError:
            self.close_reason = f"the TLS handshake took over {_TLS_HANDSHAKE_TIMEOUT:g} s"
        except OSError as exc:
            self.close_reason = f"the TLS handshake failed: {exc.strerror or exc}"
        else:
            self._is_handshake_done = True
            return True
        _log.info("%s", self.close_reason)
        return False

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

    def _process_read(self, data: bytes, max_cost: int) -> int:
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
            began, self._last_read_at = thread_time(), self._now()
            for event in self._engine.receive_data(data, self._last_read_at):
                self._event_handlers[type(event)](event)
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

    def _keep_message_buffers(self) -> None:
        """Keep the memory of large messages until there are none for a while."""
        if not MESSAGE_BUFFERS.is_keeping:
            self.start_soon(MESSAGE_BUFFERS.release_when_unused)

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

    # -- writing -----------------------------------------------------------------------------

    def flush(self) -> None:
        """Write the engine's pending data to the socket or the write buffer. Never blocks."""
        if not self._is_handshake_done or (
            self.write_coalescer.expected_writers and self.write_coalescer.should_delay()
        ):
            return
        engine, write_buffer = self._engine, self.write_buffer
        if not engine.unsent:
            return
        buffers = engine.buffers_to_send()
        if write_buffer.write(buffers) and self._nursery is not None:
            self._nursery.start_soon(self._drain_write_buffer)
        if write_buffer.size and self.account is not None:
            self._charge_write_buffer()
        if write_buffer.error is not None and not (self.closed or self._engine.closed):
            self.close_reason = f"the connection broke: {write_buffer.error.strerror}"

    async def _drain_write_buffer(self) -> None:
        await self.write_buffer.drain()
        self._charge_write_buffer()

    def keep_sent_message(self, message: bytes) -> None:
        """Keep the memory of a large message that is sent, see `MessageBuffers.keep_sent`."""
        self._keep_message_buffers()
        MESSAGE_BUFFERS.keep_sent(message)

    # -- memory ------------------------------------------------------------------------------

    def _charge_write_buffer(self) -> None:
        change = self.write_buffer.size - self._write_buffer_charge
        if self.account is not None and change:
            self._write_buffer_charge += change
            self.account.add_working(change)

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
