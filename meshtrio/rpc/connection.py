"""One HTTP/2 connection on a socket: its read loop, its writes, and the streams on it.

The read loop is the only task that a connection always has. Data is written by the task that sends
it, directly to the socket; another task writes only while the kernel's buffer is full.

Its parts: `GrpcConnection` (the engine) holds the protocol's state, `WriteBuffer` what
the kernel has not taken, `WindowWaiters` the streams that wait for the window, `WriteCoalescer` the
delay of writes. Subclasses decide what streams are: `ClientConnection` opens them,
`ServerConnection` serves them.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
from collections.abc import Awaitable, Callable
from time import thread_time
from typing import Any

import purerpc
import trio

from meshtrio.errors import CallRefusedError, ConnectionLostError
from meshtrio.grpc.connection import GrpcConnection
from meshtrio.grpc.headers import Trailers
from meshtrio.http2 import events
from meshtrio.http2.connection import Role
from meshtrio.http2.errors import ErrorCode, error_code_name
from meshtrio.http2.limits import Limits
from meshtrio.rpc import channelz_registry
from meshtrio.rpc.errors import error_for_reset
from meshtrio.rpc.fairness import EventLoopShare
from meshtrio.rpc.message_limits import default_message_limits
from meshtrio.rpc.peer_accounts import ConnectionAccount
from meshtrio.rpc.stats import CallCounters, ConnectionStatistics
from meshtrio.rpc.stream import Stream
from meshtrio.rpc.timeouts import Timeouts
from meshtrio.rpc.window_waiters import WindowWaiters
from meshtrio.rpc.write_coalescer import WriteCoalescer
from meshtrio.transport.peer import Peer
from meshtrio.transport.transport import Transport
from meshtrio.transport.write_buffer import HIGH_WATER, WriteBuffer

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
_MAX_FAILED_PER_PASS = 16
"""Number of calls that fail with their connection in one pass of the event loop.

The end of a handler takes about 0.3 ms, and there may be a thousand of them.
"""
_ENHANCE_YOUR_CALM = ErrorCode.ENHANCE_YOUR_CALM
_EVENTS_PER_CALL = 3
"""Events of a reply: headers, a message and trailers. A read with more has woken several tasks."""
_TLS_HANDSHAKE_TIMEOUT = 10.0
"""Maximum time of a TLS handshake, in seconds."""
_KEEPALIVE_PAYLOAD = b"alive?.."
CLOSE_TIMEOUT = 1.0
"""Seconds for which a closing connection flushes its last bytes and waits for the peer to close."""


class Connection:
    """The part of a connection that is common to both sides.

    `run` owns the socket and all tasks that use it. A connection is a `StreamTransport` for its
    streams.
    """

    def __init__(
        self,
        transport: Transport,
        role: Role,
        limits: Limits | None = None,
        timeouts: Timeouts | None = None,
    ) -> None:
        self.engine = GrpcConnection(role, limits)
        self.limits = self.engine.limits
        # Bound once, because every message goes through them.
        self.is_send_open = self.engine.is_send_open
        self.send_headers = self.engine.send_headers
        self.send_data = self.engine.send_data
        self.set_receive_window = self.engine.set_receive_window
        self.is_client = role is Role.CLIENT
        self.message_limits = default_message_limits(self.limits, is_client=self.is_client)
        self.timeouts = timeouts or Timeouts()
        self.streams: dict[int, Stream] = {}
        self.closed = False
        """Whether no call can be started or continued; sent data may still be flushed."""
        self.close_reason = "the peer closed the connection"
        """The reason reported to pending calls when the connection closes; updated until then."""
        self._transport = transport
        self._peer: Peer | None = None
        self.write_buffer = WriteBuffer(self._transport)
        self.counters = CallCounters()
        self.channelz_id = channelz_registry.next_channelz_id()
        self._now = trio.lowlevel.current_clock().current_time
        """The same as `trio.current_time`, at half the cost."""
        self._opened_at = self._last_read_at = self._now()
        self._ping_sent_at: float | None = None
        """Time of the keepalive PING that the peer has not acknowledged yet."""
        self.write_coalescer = WriteCoalescer(self._now)
        self._is_handshake_done = False
        """Whether the transport accepts data."""
        self._read_scope = trio.CancelScope()
        self._nursery: trio.Nursery | None = None
        self._window_waiters = WindowWaiters(self.engine, self.write_buffer, self.start_soon)
        self.window_waiters = self._window_waiters.streams
        self.wake_on_window = self._window_waiters.wait_for_window
        self.wake_on_writable = self._window_waiters.wait_until_writable
        self.wake_next_sender = self._window_waiters.wake_next
        self.account: ConnectionAccount | None = None
        """The account of the memory that the connection's calls use, on a server."""
        self.loop_share = EventLoopShare()
        """The peer's share of the event loop."""
        self._has_window_opened = False
        """Whether the current read has opened the connection's window."""
        self._incomplete_charge = 0
        """Size of incomplete frames that is charged to the account, in bytes."""
        self._write_buffer_charge = 0
        """Size of the write buffer that is charged to the account, in bytes."""
        self._unread_ack_size = 0
        """Size of acknowledgements of PING and SETTINGS that the peer has not read, in bytes."""
        self.connections_to_flush: set[Connection] = set()
        """Connections on which the current read has sent data, which are flushed after it."""
        self._streams_with_data: set[Stream] = set()
        """Streams for which the current read has brought DATA."""
        self._event_handlers: dict[type, Callable[[Any], None]] = {
            events.DataReceived: self._on_data,
            events.TrailersReceived: self._on_trailers,
            events.StreamReset: self._on_reset,
            events.WindowUpdated: self._on_window,
            events.SettingsReceived: self._on_settings,
            events.ConnectionFailed: self._on_failed,
            events.GoAwayReceived: self._on_goaway,
            events.PingAckReceived: self._on_ping_ack,
        }
        """What handles each event; subclasses add those that only their engine reports."""

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Run the connection until the peer closes or breaks it, or `close` is called.

        Nothing that the peer does raises here. When this returns all calls have failed, all tasks
        of the connection have ended and the socket is closed, also after a cancellation.
        """
        channelz_registry.SOCKETS.add(self.channelz_id, self)
        is_cancelled = True
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                task_status.started()
                with self._read_scope:
                    if await self._handshake():
                        self.flush()
                        await self._read_loop()
                self._mark_closed()
                await self._fail_streams_in_batches()
                if self.engine.closed:
                    await self._drain_before_close()
                nursery.cancel_scope.cancel()
            is_cancelled = False
        finally:
            self._mark_closed()
            self._fail_streams()
            if is_cancelled:
                self._on_cancelled()
            self.write_buffer.close()
            if self.account is not None:
                self._charge_write_buffer(self.account)
                self.account.add_incomplete(-self._incomplete_charge)
            self._transport.close()
            channelz_registry.SOCKETS.remove(self.channelz_id)

    def _on_cancelled(self) -> None:
        """Send what the peer needs to know after a cancellation; must not block."""

    async def _handshake(self) -> bool:
        try:
            with trio.fail_after(_TLS_HANDSHAKE_TIMEOUT):
                await self._transport.handshake()
        except trio.TooSlowError:
            self.close_reason = f"the TLS handshake took over {_TLS_HANDSHAKE_TIMEOUT:g} s"
        except OSError as exc:
            self.close_reason = f"the TLS handshake failed: {exc.strerror or exc}"
        else:
            self._is_handshake_done = True
            return True
        _log.info("%s", self.close_reason)
        return False

    async def _read_loop(self) -> None:
        receive, handle, now = self._transport.receive, self._event_handlers, self._now
        engine = self.engine
        while not engine.closed:
            try:
                data = await receive(_RECEIVE_SIZE)
            except OSError as exc:
                self.close_reason = f"the connection broke: {exc.strerror or exc}"
                return
            if not data:
                return
            if self.loop_share.remaining < 0 and self.loop_share.charge(0.0):
                await self.loop_share.wait_for_turn()
            self._last_read_at = now()
            cost = _MAX_READ_COST if len(data) > _SMALL_READ_SIZE else 0
            new_events = engine.receive_data(data, self._last_read_at, cost)
            for event in new_events:
                handle[type(event)](event)
            event_count = len(new_events)
            if event_count > _MAX_UNTIMED_EVENTS or cost:
                event_count = await self._process_in_slices(event_count)
            if (
                self._has_window_opened
                or self._streams_with_data
                or self._incomplete_charge
                or self.write_buffer.size
                or self.connections_to_flush
                or engine.incomplete_frame_since is not None
            ):
                has_flushed_others = self._finish_read()
                if self._unread_ack_size > HIGH_WATER:
                    await self.write_buffer.wait_drained()
            else:
                has_flushed_others = False
                self.flush()
            # In two or three parts, so that the peer works on one while the next is being made.
            writers = event_count // (2 * _EVENTS_PER_CALL)
            if writers > 1 and not has_flushed_others:
                await self.write_coalescer.run(writers, self.flush)

    async def _process_in_slices(self, event_count: int) -> int:
        """Process the rest of a large read, in time slices between which other peers get a turn.

        Args:
            event_count: Number of events of the read that were processed already.

        Returns:
            The number of events of the last slice.
        """
        engine, share, handle = self.engine, self.loop_share, self._event_handlers
        # Only the order of magnitude of what was processed before matters.
        began = thread_time() - event_count * _SECONDS_PER_EVENT
        while True:
            while engine.unprocessed_frames is not None:
                more = engine.receive_data(b"", self._now(), _MAX_READ_COST)
                for event in more:
                    handle[type(event)](event)
                event_count += len(more)
                if thread_time() - began >= share.time_slice:
                    break
            must_wait = share.charge(thread_time() - began)
            if engine.unprocessed_frames is None and not must_wait:
                return event_count
            self._finish_read()
            if self._unread_ack_size > HIGH_WATER:
                await self.write_buffer.wait_drained()
            await share.wait_for_turn()
            began, event_count = thread_time(), 0
            if engine.unprocessed_frames is None:
                return event_count

    def _finish_read(self) -> bool:
        """Open windows and flush after a read; return whether other connections were flushed."""
        self._charge_incomplete()
        if self._has_window_opened:
            self._has_window_opened = False
            self._window_waiters.wake()
        for stream in self._streams_with_data:
            if not stream.remote_closed:
                stream.release_window()
        self._streams_with_data.clear()
        waiting = self.write_buffer.size
        self.flush()
        has_flushed_others = bool(self.connections_to_flush)
        if has_flushed_others:
            self._flush_connections()
        # A peer that sends PING or SETTINGS is not read from while it does not read the replies.
        # Messages do not count: two peers that each wait for the other to read would deadlock, and
        # flow control bounds messages anyway.
        self._unread_ack_size = (
            self._unread_ack_size + self.write_buffer.size - waiting if waiting else 0
        )
        return has_flushed_others

    def _flush_connections(self) -> None:
        connections, self.connections_to_flush = self.connections_to_flush, set()
        for connection in connections:
            connection.flush()

    async def _drain_before_close(self) -> None:
        """Flush the last data and wait for the peer to close.

        Closing a socket with unread bytes could discard data on its way to the peer.
        """
        with trio.move_on_after(CLOSE_TIMEOUT), contextlib.suppress(OSError):
            await self.write_buffer.wait_drained()
            self._transport.send_eof()
            while await self._transport.receive(_RECEIVE_SIZE):
                pass

    def close(self, reason: str, code: ErrorCode = ErrorCode.NO_ERROR) -> None:
        """Send GOAWAY and close; open calls fail with `reason`. Does not wait."""
        if self.closed or self.engine.closed:
            return
        self.close_reason = reason
        self.engine.close(code, reason)
        self.flush()
        self._mark_closed()
        self._read_scope.cancel()

    def check_timeouts(self, now: float) -> None:
        """Enforce the timeouts; called once a second by the owner of the connection."""
        timeouts, incomplete_since = self.timeouts, self.engine.incomplete_frame_since
        if not self.engine.is_established:
            if now - self._opened_at > timeouts.handshake:
                reason = f"the peer did not speak HTTP/2 within {timeouts.handshake:g} s"
                self.close(reason, ErrorCode.SETTINGS_TIMEOUT)
        elif incomplete_since is not None and now - incomplete_since > timeouts.frame:
            reason = f"a frame was not finished within {timeouts.frame:g} s"
            self.close(reason, ErrorCode.ENHANCE_YOUR_CALM)
        else:
            self._check_keepalive(now)
            for stream in list(self.streams.values()):
                since = stream.incomplete_since
                if since is not None and now - since > timeouts.message:
                    self._fail_slow_stream(stream)

    def _fail_slow_stream(self, stream: Stream) -> None:
        if self.engine.is_receive_window_open(stream.id):
            what = (
                "request was not ended"
                if stream.is_awaiting_end_stream
                else "message was not finished"
            )
            text = f"a {what} within {self.timeouts.message:g} s"
            stream.fail(purerpc.ResourceExhaustedError(text))

    def _check_keepalive(self, now: float) -> None:
        if self._ping_sent_at is not None and self._last_read_at >= self._ping_sent_at:
            self._ping_sent_at = None
        if self._ping_sent_at is not None:
            if now - self._ping_sent_at > self.timeouts.keepalive_timeout:
                self.close("keepalive timeout: the peer gives no sign of life")
        elif now - self._last_read_at > self.timeouts.keepalive_time:
            self._ping_sent_at = now
            self.counters.keepalives_sent += 1
            self.engine.ping(_KEEPALIVE_PAYLOAD)
            self.flush()

    def _mark_closed(self) -> None:
        """Prevent new calls, and fail the open ones: now if they are few, or else in `run`."""
        self.closed = True
        self._fail_streams_if_few()

    def _fail_streams_if_few(self) -> None:
        """Fail the calls, unless there are so many that `run` has to do it in batches."""
        if len(self.streams) <= _MAX_FAILED_PER_PASS:
            self._fail_streams()

    async def _fail_streams_in_batches(self) -> None:
        """Fail all calls, a few in each pass of the event loop."""
        while self.streams:
            for stream in list(itertools.islice(self.streams.values(), _MAX_FAILED_PER_PASS)):
                self._fail_stream(stream, ConnectionLostError(self.close_reason))
            await trio.lowlevel.checkpoint()

    def _fail_streams(self) -> None:
        for stream in list(self.streams.values()):
            self._fail_stream(stream, ConnectionLostError(self.close_reason))

    def flush(self) -> None:
        """Write the engine's pending data to the socket or the write buffer. Never blocks."""
        if not self._is_handshake_done or (
            self.write_coalescer.expected_writers and self.write_coalescer.should_delay()
        ):
            return
        buffers = self.engine.buffers_to_send()
        if not buffers:
            return
        write_buffer = self.write_buffer
        if write_buffer.write(buffers) and self._nursery is not None:
            self._nursery.start_soon(self._drain_write_buffer)
        if write_buffer.size and self.account is not None:
            self._charge_write_buffer(self.account)
        if write_buffer.error is not None and not (self.closed or self.engine.closed):
            self.close_reason = f"the connection broke: {write_buffer.error.strerror}"

    async def _drain_write_buffer(self) -> None:
        await self.write_buffer.drain()
        if self.account is not None:
            self._charge_write_buffer(self.account)

    def _charge_write_buffer(self, account: ConnectionAccount) -> None:
        change = self.write_buffer.size - self._write_buffer_charge
        self._write_buffer_charge += change
        account.add_working(change)

    def _charge_incomplete(self) -> None:
        """Charge incomplete frames and header blocks.

        Closes the connection if the peer has too many of them, on all of its connections.
        """
        account, size = self.account, self.engine.buffered_size
        if account is None or size == self._incomplete_charge:
            return
        change = size - self._incomplete_charge
        self._incomplete_charge = size
        if not account.add_incomplete(change):
            self.close("frames that are not complete use up peer_memory", _ENHANCE_YOUR_CALM)

    def statistics(self) -> ConnectionStatistics:
        """Return what the connection has counted until now; may be called from any thread."""
        raise NotImplementedError

    def _stream_statistics(self, started: int) -> CallCounters:
        engine = self.engine
        failed = engine.streams_failed
        return CallCounters(started, started - failed - engine.open_stream_count, failed)

    def final_calls(self) -> CallCounters:
        """Return the calls of a connection that is closed: those without status OK have failed."""
        calls = self.statistics().calls
        calls.failed = calls.started - calls.succeeded
        return calls

    @property
    def max_send_header_list_size(self) -> int:
        """The maximum size of a header list that the peer accepts, in bytes."""
        return self.engine.max_send_header_list_size

    @property
    def above_high_water(self) -> bool:
        """Whether calls must wait before they add to the write buffer."""
        return self.write_buffer.size > HIGH_WATER

    async def wait_below_high_water(self) -> None:
        """Wait until the kernel has taken most of the write buffer, or the connection closes."""
        await self.write_buffer.wait_below_high_water()

    def has_stream(self, stream_id: int) -> bool:
        """Return whether a stream is open."""
        return stream_id in self.streams

    @property
    def transport(self) -> Transport:
        return self._transport

    @property
    def peer(self) -> Peer:
        """The peer, as the kernel or TLS identifies it; an empty `Peer` once the peer is gone."""
        if self._peer is None:
            try:
                self._peer = self._transport.peer()
            except OSError:
                return Peer()
        return self._peer

    # -- streams -----------------------------------------------------------------------------

    def remove_stream(self, stream_id: int, code: ErrorCode) -> None:
        """Remove a stream, and reset it unless the peer knows that it has ended."""
        stream = self.streams.pop(stream_id, None)
        if stream is None:
            return
        if self.window_waiters:
            self.wake_next_sender(stream)
        awaits_end = not stream.remote_closed and self._should_await_end_stream(stream_id, code)
        if not awaits_end and self.engine.reset_stream(stream_id, code):
            self.flush()
        self._on_stream_removed(stream)

    def _should_await_end_stream(self, stream_id: int, code: ErrorCode) -> bool:
        """Return whether a stream stays open until the peer ends it, instead of being reset."""
        return False

    def abort_stream(self, stream: Stream, error: purerpc.RpcFailedError) -> None:
        """Fail a call with an error, and reset its stream."""
        if stream.id in self.streams:
            self._fail_stream(stream, error)
            if self.engine.reset_stream(stream.id, ErrorCode.CANCEL):
                self.flush()

    def _fail_stream(self, stream: Stream, error: purerpc.RpcFailedError) -> None:
        self.streams.pop(stream.id, None)
        self.wake_next_sender(stream)
        stream.fail(error)
        self._on_stream_removed(stream)

    def _on_stream_removed(self, stream: Stream) -> None:
        """Handle the end of a stream, whose slot is free."""

    # -- events ------------------------------------------------------------------------------

    def _on_data(self, event: events.DataReceived) -> None:
        stream = self.streams.get(event.stream_id)
        if stream is not None:
            stream.on_data(event.data, event.end_stream)
            if not event.end_stream:
                self._streams_with_data.add(stream)

    def _on_trailers(self, event: events.TrailersReceived[Trailers | None]) -> None:
        stream = self.streams.get(event.stream_id)
        if stream is not None:
            stream.on_end_stream(event.trailers)

    def _on_reset(self, event: events.StreamReset) -> None:
        stream = self.streams.get(event.stream_id)
        if stream is None:
            return
        # A call whose response has started was processed, whatever the error code says.
        if (
            event.remote_reset
            and event.error_code == ErrorCode.REFUSED_STREAM
            and stream.headers is None
        ):
            self._fail_stream(
                stream, CallRefusedError("the peer refused the call before processing it")
            )
        else:
            self._fail_stream(stream, error_for_reset(event.error_code, event.reason))

    def _on_window(self, event: events.WindowUpdated) -> None:
        if event.stream_id:
            stream = self.streams.get(event.stream_id)
            if stream is not None:
                stream.on_writable()
        else:
            self._has_window_opened = True

    def _on_settings(self, event: events.SettingsReceived) -> None:
        if event.windows_increased:
            for stream in list(self.streams.values()):
                stream.on_writable()

    def start_soon(self, task: Callable[..., Awaitable[object]], *args: object) -> None:
        """Start a task that is cancelled with the connection; does nothing once it is closed."""
        if self.closed or self._nursery is None:
            return
        with contextlib.suppress(RuntimeError):  # The nursery is closing, and calls will fail.
            self._nursery.start_soon(task, *args)

    def _on_failed(self, event: events.ConnectionFailed) -> None:
        name = error_code_name(event.error_code)
        self.close_reason = f"the peer broke HTTP/2 ({name}: {event.reason})"
        self._fail_streams_if_few()

    def _on_goaway(self, event: events.GoAwayReceived) -> None:
        if event.error_code:
            why = event.debug_data.decode("utf-8", "replace")
            self.close_reason = (
                f"the peer closed the connection ({error_code_name(event.error_code)} {why})"
            )

    def _on_ping_ack(self, event: events.PingAckReceived) -> None:
        """Handle the acknowledgement of a PING."""
