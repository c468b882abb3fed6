"""One HTTP/2 connection on a socket: the pump that reads, and the flush that writes.

The pump is the connection's only standing task. Writing is done by whichever task has something
to say, straight to the socket; a task of its own is started only while the kernel takes no more.
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
from meshtrio.grpc.connection import GrpcConnection as Engine
from meshtrio.grpc.headers import RequestHeaders, ResponseHeaders, Trailers
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
from meshtrio.transport.peer import Peer
from meshtrio.transport.transport import Transport
from meshtrio.transport.write_buffer import HIGH_WATER, WriteBuffer

_log = logging.getLogger("meshtrio.rpc")

_RECEIVE_SIZE = 1024 * 1024
_SMALL_READ_SIZE = 4096
"""Bytes of a read that are processed at once: some 450 frames at the most."""
_MAX_READ_COST = 128
"""Frames, and KiB of frames, that are processed before the time is looked at."""
_MAX_UNTIMED_EVENTS = 24
"""Events of one read whose time is not worth measuring."""
_SECONDS_PER_EVENT = 0.000003
"""Seconds that an event takes on average."""
_MAX_FAILED_PER_PASS = 16
"""Calls that end in one pass of the event loop with their connection. The end of a handler takes
some 0.3 ms, and there may be a thousand."""
_ENHANCE_YOUR_CALM = ErrorCode.ENHANCE_YOUR_CALM
_WINDOW_PER_WAKEUP = 4096
"""Bytes of a connection's window for which one waiting stream is woken."""
_EVENTS_PER_CALL = 3
"""A reply is a head, a message and trailers: a read that brings more has woken several tasks."""
_MAX_WRITE_DELAY = 0.0005
"""Seconds for which writing waits at the most for more to be said."""
_TLS_HANDSHAKE_TIMEOUT = 10.0
"""Seconds that TLS may take to agree on keys."""
_KEEPALIVE_PAYLOAD = b"alive?.."
CLOSE_TIMEOUT = 1.0
"""Seconds a closing connection has to be rid of its last bytes, and the peer to close too."""


class Connection:
    """The parts common to both sides; `run` owns the socket and everything that uses it."""

    def __init__(
        self,
        transport: Transport,
        role: Role,
        limits: Limits | None = None,
        timeouts: Timeouts | None = None,
    ) -> None:
        self.engine = Engine(role, limits)
        self.limits = self.engine.limits
        self.is_client = role is Role.CLIENT
        self.message_limits = default_message_limits(self.limits, is_client=self.is_client)
        self.timeouts = timeouts or Timeouts()
        self.streams: dict[int, Stream] = {}
        self.closed = False
        """No call can be made or answered any more; what was said is still being sent, perhaps."""
        self.close_reason = "the peer closed the connection"
        """Why the connection ended, or would be said to have if it ended now."""
        self._transport = transport
        self._peer: Peer | None = None
        self.write_buffer = WriteBuffer(self._transport)
        self.counters = CallCounters()
        self.channelz_id = channelz_registry.next_channelz_id()
        self._now = trio.lowlevel.current_clock().current_time
        """`trio.current_time`, at half its cost."""
        self._opened_at = self._last_read_at = self._now()
        self._ping_sent_at: float | None = None
        """When the peer was asked for a sign of life that has not come yet."""
        self._expected_writers = 0
        """So many calls are waited for, and written at once; 0 where each speaks for itself."""
        self._writers_seen = 0
        """How many of them have spoken."""
        self._coalesce_until = 0.0
        """When they are written all the same."""
        self._is_handshake_done = False
        """The transport is ready for bytes."""
        self._read_scope = trio.CancelScope()
        self._nursery: trio.Nursery | None = None
        self.window_waiters: dict[Stream, None] = {}
        """Streams that wait for the connection's window or for the kernel, in order."""
        self.account: ConnectionAccount | None = None
        """On a server: the memory that the connection's calls use."""
        self.loop_share = EventLoopShare()
        """The use that the peer makes of the event loop."""
        self._has_window_opened = False
        """The read under way has opened the connection's window."""
        self._is_waking_senders = False
        self._incomplete_charge = 0
        """Bytes of an incomplete frame that the ledger counts."""
        self._write_buffer_charge = 0
        """Bytes in the outbox that the ledger counts."""
        self._unread_ack_size = 0
        """Bytes of answers to PING and SETTINGS that the peer has not read."""
        self._is_awaiting_low_water = False
        """A task waits for the kernel on their behalf."""
        self.connections_to_flush: set[Connection] = set()
        """Connections that what the read under way brings is passed on to."""
        self._streams_with_data: set[Stream] = set()
        """Streams that the read under way has brought DATA for."""
        self._event_handlers: dict[type, Callable[[Any], None]] = {
            events.DataReceived: self._on_data,
            events.TrailersReceived: self._on_trailers,
            events.StreamReset: self._on_reset,
            events.WindowUpdated: self._on_window,
            events.SettingsReceived: self._on_settings,
            events.ConnectionFailed: self._on_failed,
            events.GoAwayReceived: self._on_goaway,
            events.PingAckReceived: self._on_ping_ack,
            events.RequestReceived: self._on_request,
            events.RequestHeadersTooLarge: self._on_request_too_large,
            events.ResponseReceived: self._on_response,
        }

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve the connection until the peer closes it, breaks it, or `shut` is called.

        Never raises for what the peer does. Whatever ends it, cancellation included, every call
        on it is failed, its tasks are cancelled and the socket is closed before this returns.
        """
        channelz_registry.SOCKETS.add(self.channelz_id, self)
        cut = True
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
            cut = False
        finally:
            self._mark_closed()
            self._fail_streams()
            if cut:
                self._on_cancelled()
            self.write_buffer.close()
            if self.account is not None:
                self._charge_write_buffer(self.account)
                self.account.add_incomplete(-self._incomplete_charge)
            self._transport.close()
            channelz_registry.SOCKETS.remove(self.channelz_id)

    def _on_cancelled(self) -> None:
        """Send what the peer has to know although this was cancelled; must not block."""

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
        while not self.engine.closed:
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
            events_ = engine.receive_data(data, self._last_read_at, cost)
            for event in events_:
                handle[type(event)](event)
            received = len(events_)
            if received > _MAX_UNTIMED_EVENTS or cost:
                received = await self._process_in_slices(received)
            if (
                self._needs_finish
                or engine.incomplete_frame_since is not None
                or self._streams_with_data
            ):
                passed_on = self._finish_read()
                if self._unread_ack_size > HIGH_WATER:
                    await self.write_buffer.wait_drained()
            else:
                passed_on = False
                self.flush()
            # In two or three parts: the peer is at work on one while the next is being made.
            together = received // (2 * _EVENTS_PER_CALL)
            if together > 1 and not passed_on:
                await self._coalesce_writes(together)

    async def _process_in_slices(self, received: int) -> int:
        """Process what a read has brought beyond little: a slice of time, then the next in the
        peer's turn. Gives the number of events of the last slice, `received` being the first.
        """
        engine, share, handle = self.engine, self.loop_share, self._event_handlers
        # What came before was one part, of which only the order of magnitude matters.
        began = thread_time() - received * _SECONDS_PER_EVENT
        while True:
            while engine.unprocessed_frames is not None:
                more = engine.receive_data(b"", self._now(), _MAX_READ_COST)
                for event in more:
                    handle[type(event)](event)
                received += len(more)
                if thread_time() - began >= share.time_slice:
                    break
            must_wait = share.charge(thread_time() - began)
            if engine.unprocessed_frames is None and not must_wait:
                return received
            self._finish_read()
            if self._unread_ack_size > HIGH_WATER:
                await self.write_buffer.wait_drained()
            await share.wait_for_turn()
            began, received = thread_time(), 0
            if engine.unprocessed_frames is None:
                return received

    @property
    def _needs_finish(self) -> bool:
        """Whether a read has led to more than what `flush` sends."""
        waiting = self.write_buffer.size or self._incomplete_charge
        return bool(self._has_window_opened or self.connections_to_flush or waiting)

    def _finish_read(self) -> bool:
        """Send what a read has led to; true if some of it was passed on."""
        self._charge_incomplete()
        if self._has_window_opened:
            self._has_window_opened = False
            self._wake_senders()
        for stream in self._streams_with_data:
            if not stream.remote_closed:
                stream.release_window()
        self._streams_with_data.clear()
        waiting = self.write_buffer.size
        self.flush()
        passed_on = bool(self.connections_to_flush)
        if passed_on:
            self._flush_connections()
        # A peer that asks (PING, SETTINGS) and does not read the answers is not asked for more.
        # Messages are not counted: two peers that each wait for the other to read would wait for
        # ever, and windows bound them anyway.
        self._unread_ack_size = (
            self._unread_ack_size + self.write_buffer.size - waiting if waiting else 0
        )
        return passed_on

    def _flush_connections(self) -> None:
        passed_on, self.connections_to_flush = self.connections_to_flush, set()
        for connection in passed_on:
            connection.flush()

    async def _coalesce_writes(self, count: int) -> None:
        """Write what so many of the tasks that one read has woken say in one system call, instead
        of one for each. Not for long: what takes its time is not waited for.
        """
        self._expected_writers, self._writers_seen, self._coalesce_until = (
            count,
            0,
            self._now() + _MAX_WRITE_DELAY,
        )
        try:
            # A task that was woken runs within the next two passes of the scheduler.
            await trio.lowlevel.cancel_shielded_checkpoint()
            await trio.lowlevel.cancel_shielded_checkpoint()
        finally:
            self._expected_writers = 0
            self.flush()

    def _should_delay_write(self) -> bool:
        """Another call has spoken, and others are about to."""
        self._writers_seen += 1
        now = self._now()
        if self._writers_seen < self._expected_writers and now < self._coalesce_until:
            return True
        self._writers_seen, self._coalesce_until = 0, now + _MAX_WRITE_DELAY
        return False

    async def _drain_before_close(self) -> None:
        """See the last words off: closing with unread bytes could destroy them on their way."""
        with trio.move_on_after(CLOSE_TIMEOUT), contextlib.suppress(OSError):
            await self.write_buffer.wait_drained()
            self._transport.send_eof()
            while await self._transport.receive(_RECEIVE_SIZE):
                pass

    def close(self, reason: str, code: ErrorCode = ErrorCode.NO_ERROR) -> None:
        """Close after saying GOAWAY; calls still open fail with `reason`. Does not wait."""
        if self.closed or self.engine.closed:
            return
        self.close_reason = reason
        self.engine.close(code, reason)
        self.flush()
        self._mark_closed()
        self._read_scope.cancel()

    def check_timeouts(self, now: float) -> None:
        """Hold the peer to the timeouts; called by the connection's owner once a second."""
        times, stalled = self.timeouts, self.engine.incomplete_frame_since
        if not self.engine.is_established:
            if now - self._opened_at > times.handshake:
                reason = f"the peer did not speak HTTP/2 within {times.handshake:g} s"
                self.close(reason, ErrorCode.SETTINGS_TIMEOUT)
        elif stalled is not None and now - stalled > times.frame:
            reason = f"a frame was not finished within {times.frame:g} s"
            self.close(reason, ErrorCode.ENHANCE_YOUR_CALM)
        else:
            self._check_keepalive(now)
            for stream in list(self.streams.values()):
                since = stream.incomplete_since
                if since is not None and now - since > times.message:
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
                self.close("the peer gives no sign of life")
        elif now - self._last_read_at > self.timeouts.keepalive_time:
            self._ping_sent_at = now
            self.counters.keepalives_sent += 1
            self.engine.ping(_KEEPALIVE_PAYLOAD)
            self.flush()

    def _mark_closed(self) -> None:
        """From here on nothing is called; what was, fails, at once or in turns."""
        self.closed = True
        self._fail_streams_if_few()

    def _fail_streams_if_few(self) -> None:
        """Fail the calls at once, unless there are so many that `run` has to do it in turns."""
        if len(self.streams) <= _MAX_FAILED_PER_PASS:
            self._fail_streams()

    async def _fail_streams_in_batches(self) -> None:
        """Fail the calls that there are, a few in each pass of the event loop."""
        while self.streams:
            for stream in list(itertools.islice(self.streams.values(), _MAX_FAILED_PER_PASS)):
                self._fail_stream(stream, ConnectionLostError(self.close_reason))
            await trio.lowlevel.checkpoint()

    def _fail_streams(self) -> None:
        for stream in list(self.streams.values()):
            self._fail_stream(stream, ConnectionLostError(self.close_reason))

    def flush(self) -> None:
        """Write what the engine has to say, now as far as the kernel takes it. Never blocks."""
        if not self._is_handshake_done or (self._expected_writers and self._should_delay_write()):
            return
        buffers = self.engine.buffers_to_send()
        if not buffers:
            return
        if self.write_buffer.write(buffers) and self._nursery is not None:
            self._nursery.start_soon(self._drain_write_buffer)
        if self.write_buffer.size and self.account is not None:
            self._charge_write_buffer(self.account)
        if self.write_buffer.error is not None and not (self.closed or self.engine.closed):
            self.close_reason = f"the connection broke: {self.write_buffer.error.strerror}"

    async def _drain_write_buffer(self) -> None:
        await self.write_buffer.drain()
        if self.account is not None:
            self._charge_write_buffer(self.account)

    def _charge_write_buffer(self, account: ConnectionAccount) -> None:
        change = self.write_buffer.size - self._write_buffer_charge
        self._write_buffer_charge += change
        account.add_working(change)

    def _charge_incomplete(self) -> None:
        """Count what has come of a frame or header block that is not complete. Closes the
        connection if the peer has too much of that, on all of its connections."""
        ledger, size = self.account, self.engine.buffered_size
        if ledger is None or size == self._incomplete_charge:
            return
        change = size - self._incomplete_charge
        self._incomplete_charge = size
        if not ledger.add_incomplete(change):
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
    def transport(self) -> Transport:
        return self._transport

    @property
    def peer(self) -> Peer:
        """Who is at the other end; nobody in particular once it is gone."""
        if self._peer is None:
            try:
                self._peer = self._transport.peer()
            except OSError:
                return Peer()
        return self._peer

    # -- streams -----------------------------------------------------------------------------

    def remove_stream(self, stream: Stream, code: ErrorCode) -> None:
        """Drop a stream, telling the peer where it does not know yet that it is over."""
        if self.window_waiters:
            self.wake_next_sender(stream)
        if self.streams.pop(stream.id, None) is not None:
            awaits_end = not stream.remote_closed and self._should_await_end_stream(stream.id, code)
            if not awaits_end and self.engine.reset_stream(stream.id, code):
                self.flush()
            self._on_stream_removed(stream)

    def _should_await_end_stream(self, stream_id: int, code: ErrorCode) -> bool:
        """Whether a stream stays open until the peer has ended it, instead of being reset."""
        return False

    def abort_stream(self, stream: Stream, error: purerpc.RpcFailedError) -> None:
        """End a call from this side, telling both ends why."""
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
        """A stream's place is free."""

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
        # A stream whose response has begun was processed, whatever the code says.
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

    def _wake_senders(self) -> None:
        """Wake streams that wait for the connection's window, as many as it has room for.

        A stream with a task is woken and sends later; when it is done it wakes the next, by
        `wake_next_sender`. So a peer that opens the window by a byte does not make this side wake
        all that wait.
        """
        room = self.engine.flow_control_windows[0]
        if self._is_waking_senders or room <= 0:
            return
        self._is_waking_senders = True
        for stream in list(self.window_waiters):
            if min(room, self.engine.flow_control_windows[0]) <= 0:
                break
            if self.write_buffer.above_high_water:
                self._start_low_water_waiter()
                break
            del self.window_waiters[stream]
            if not stream.sends_synchronously:
                room -= _WINDOW_PER_WAKEUP
            stream.on_writable()
        self._is_waking_senders = False

    def wake_next_sender(self, stream: Stream) -> None:
        """Leave what a stream did not use of the connection's window to the next that waits."""
        if self.window_waiters:
            self.window_waiters.pop(stream, None)
            self._wake_senders()

    def _on_settings(self, event: events.SettingsReceived) -> None:
        if event.windows_increased:
            for stream in list(self.streams.values()):
                stream.on_writable()

    def wake_on_window(self, stream: Stream) -> None:
        """Have a stream woken when the connection's window opens, if that is what it waits for."""
        if self.engine.flow_control_windows[0] <= 0:
            self.window_waiters[stream] = None
        else:
            self.wake_next_sender(stream)

    def wake_on_writable(self, stream: Stream) -> None:
        """The same, and when the kernel takes more."""
        if self.write_buffer.above_high_water:
            self.window_waiters[stream] = None
            self._start_low_water_waiter()
        else:
            self.wake_on_window(stream)

    def _start_low_water_waiter(self) -> None:
        if not self._is_awaiting_low_water:
            self._is_awaiting_low_water = True
            self.start_soon(self._wake_senders_at_low_water)

    async def _wake_senders_at_low_water(self) -> None:
        await self.write_buffer.wait_below_high_water()
        self._is_awaiting_low_water = False
        self._wake_senders()

    def start_soon(self, task: Callable[..., Awaitable[object]], *args: object) -> None:
        """Start a task that ends with the connection; none where it has ended."""
        if self.closed or self._nursery is None:
            return
        with contextlib.suppress(RuntimeError):  # It is ending, and will fail its calls.
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
        """A ping of ours came back."""

    def _on_request(self, event: events.RequestReceived[RequestHeaders]) -> None:
        raise AssertionError("only a server's engine reports requests")

    def _on_request_too_large(self, event: events.RequestHeadersTooLarge) -> None:
        raise AssertionError("only a server's engine reports requests")

    def _on_response(self, event: events.ResponseReceived[ResponseHeaders]) -> None:
        raise AssertionError("only a client's engine reports responses")
