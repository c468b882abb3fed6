"""One HTTP/2 connection on a socket: its life, its timeouts and the streams on it.

Its parts: `ConnectionIO` reads and writes, and the engine in it holds the state of the protocol.
Subclasses decide what streams are: `ClientConnection` opens them, `ServerConnection` serves them.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection
from typing import TYPE_CHECKING

import purerpc
import trio

from meshtrio.errors import CallRefusedError, ConnectionLostError
from meshtrio.grpc.headers import Trailers
from meshtrio.http2 import events
from meshtrio.http2.errors import ErrorCode, error_code_name
from meshtrio.http2.limits import Limits
from meshtrio.rpc import channelz_registry
from meshtrio.rpc.connection_io import ConnectionIO
from meshtrio.rpc.errors import error_for_reset
from meshtrio.rpc.stats import CallCounters, ConnectionStatistics
from meshtrio.rpc.timeouts import CHECK_INTERVAL, Timeouts
from meshtrio.transport.transport import Transport
from meshtrio.util.concurrency import sleep_until_tick

if TYPE_CHECKING:
    from meshtrio.rpc.connected_stream import ConnectedStream

_MAX_FAILED_PER_PASS = 16
"""Number of calls that fail with their connection in one pass of the event loop.

The end of a handler takes about 0.3 ms, and there may be a thousand of them.
"""
_KEEPALIVE_PAYLOAD = b"alive?.."
_REFUSED_STREAM = int(ErrorCode.REFUSED_STREAM)


class Connection(ConnectionIO):
    """The part of a connection that is common to both sides.

    `run` owns the socket and all tasks that use it.
    """

    def __init__(
        self, transport: Transport, limits: Limits | None = None, timeouts: Timeouts | None = None
    ) -> None:
        super().__init__(transport, limits)
        self.timeouts = timeouts or Timeouts()
        self.streams: dict[int, ConnectedStream] = {}
        self._open_streams = self._engine.streams.by_id
        self.channelz_id = channelz_registry.next_channelz_id()
        self._ping_sent_at = 0.0
        """Time of the last keepalive PING."""
        self._event_handlers |= {
            events.DataReceived: self._on_data,
            events.TrailersReceived: self._on_trailers,
            events.StreamReset: self._on_reset,
            events.WindowUpdated: self._on_window,
            events.SettingsReceived: self._on_settings,
            events.ConnectionFailed: self._on_failed,
            events.GoAwayReceived: self._on_goaway,
            events.PingAckReceived: self._on_ping_ack,
        }

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Run the connection until the peer closes or breaks it, or `close` is called.

        Nothing that the peer does raises here. When this returns all calls have failed, all tasks
        of the connection have ended and the socket is closed, also after a cancellation.
        """
        channelz_registry.SOCKETS[self.channelz_id] = self
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
                while self.streams:  # A few in each pass of the event loop.
                    self._fail_streams(_MAX_FAILED_PER_PASS)
                    await trio.lowlevel.checkpoint()
                if self._engine.closed:
                    await self._drain_before_close()
                nursery.cancel_scope.cancel()
            is_cancelled = False
        finally:
            self._mark_closed()
            self._fail_streams()
            if is_cancelled:
                self._on_cancelled()
            self.write_buffer.close()
            self._release_buffer_charges()
            self.transport.close()
            channelz_registry.SOCKETS.pop(self.channelz_id, None)

    def _on_cancelled(self) -> None:
        """Send what the peer needs to know after a cancellation; must not block."""

    def close(self, reason: str, code: ErrorCode = ErrorCode.NO_ERROR) -> None:
        """Send GOAWAY and close; open calls fail with `reason`. Does not wait."""
        if self.closed or self._engine.closed:
            return
        self.close_reason = reason
        self._engine.close(code, reason)
        self.flush()
        self._mark_closed()
        self._read_scope.cancel()

    def close_if_silent(self, since: float) -> None:
        """Close if the peer has sent nothing since a time on trio's clock, at which it had to."""
        if self._last_read_at < since:
            silence = self._now() - self._last_read_at
            self.close(f"the peer has sent nothing for {silence:.1f} s")

    def check_timeouts(self, now: float) -> None:
        """Enforce the timeouts; called once a second by the owner of the connection."""
        timeouts, incomplete_since = self.timeouts, self._engine.frame_reader.incomplete_since
        if not self.peer_settings.is_received:
            if now - self._opened_at > timeouts.handshake:
                self.close_after_handshake_timeout()
        elif incomplete_since is not None and now - incomplete_since > timeouts.frame:
            reason = f"a frame was not finished within {timeouts.frame:g} s"
            self.close(reason, ErrorCode.ENHANCE_YOUR_CALM)
        else:
            self._check_keepalive(now)
            for stream in list(self.streams.values()):
                since = stream.incomplete_since
                if since is not None and now - since > timeouts.message:
                    self._fail_slow_stream(stream)

    def close_after_handshake_timeout(self) -> None:
        """Close because the peer has sent no SETTINGS in time."""
        reason = f"the peer did not speak HTTP/2 within {self.timeouts.handshake:g} s"
        self.close(reason, ErrorCode.SETTINGS_TIMEOUT)

    def _fail_slow_stream(self, stream: ConnectedStream) -> None:
        if self._engine.is_receive_window_open(stream.id):
            is_ended = not stream.is_awaiting_end_stream
            what = "message was not finished" if is_ended else "request was not ended"
            text = f"a {what} within {self.timeouts.message:g} s"
            stream.fail(purerpc.ResourceExhaustedError(text))

    def _check_keepalive(self, now: float) -> None:
        if self._last_read_at < self._ping_sent_at:
            if now - self._ping_sent_at > self.timeouts.keepalive_timeout:
                timeout = f"{self.timeouts.keepalive_timeout:g} s"
                self.close(f"keepalive timeout: no data within {timeout} of a PING")
        elif now - self._last_read_at > self.timeouts.keepalive_time:
            self._ping_sent_at = now
            self.counters.keepalives_sent += 1
            self._engine.ping(_KEEPALIVE_PAYLOAD)
            self.flush()

    def _mark_closed(self) -> None:
        """Prevent new calls, and fail the open ones: now if they are few, or else in `run`."""
        self.closed = True
        if self.streams:
            self._fail_streams_if_few()

    def _fail_streams_if_few(self) -> None:
        """Fail the calls, unless there are so many that `run` has to do it in batches."""
        if len(self.streams) <= _MAX_FAILED_PER_PASS:
            self._fail_streams()

    def _fail_streams(self, max_count: int | None = None) -> None:
        for stream in list(itertools.islice(self.streams.values(), max_count)):
            self._fail_stream(stream, ConnectionLostError(self.close_reason))

    def statistics(self) -> ConnectionStatistics:
        """Return what the connection has counted until now; may be called from any thread."""
        raise NotImplementedError

    def _stream_statistics(self, started: int) -> CallCounters:
        failed = self._engine.streams.failed_count
        return CallCounters(started, started - failed - self._engine.open_stream_count, failed)

    def final_calls(self) -> CallCounters:
        """Return the calls of a connection that is closed: those without status OK have failed."""
        calls = self.statistics().calls
        calls.failed = calls.started - calls.succeeded
        return calls

    # -- streams -----------------------------------------------------------------------------

    def remove_stream(self, stream_id: int, code: ErrorCode) -> None:
        stream = self.streams.pop(stream_id, None)
        if stream is None:
            return
        if self.window_waiters.streams:
            self.window_waiters.wake_next(stream)
        # Most streams have ended in both directions, and the engine does not hold them any more.
        if stream_id in self._open_streams:
            awaits_end = not stream.remote_closed and self._should_await_end_stream(stream_id, code)
            if not awaits_end and self._engine.reset_stream(stream_id, code):
                self.flush()
        self._on_stream_removed(stream)

    def _should_await_end_stream(self, stream_id: int, code: ErrorCode) -> bool:
        """Return whether a stream stays open until the peer ends it, instead of being reset."""
        return False

    def abort_stream(self, stream: ConnectedStream, error: purerpc.RpcFailedError) -> None:
        """Fail a call with an error, and reset its stream."""
        if stream.id in self.streams:
            self._fail_stream(stream, error)
            if self._engine.reset_stream(stream.id, ErrorCode.CANCEL):
                self.flush()

    def _fail_stream(self, stream: ConnectedStream, error: purerpc.RpcFailedError) -> None:
        self.streams.pop(stream.id, None)
        self.window_waiters.wake_next(stream)
        stream.fail(error)
        self._on_stream_removed(stream)

    def _on_stream_removed(self, stream: ConnectedStream) -> None:
        """Handle the end of a stream, whose slot is free."""

    # -- events ------------------------------------------------------------------------------

    def _on_data(self, event: events.DataReceived) -> None:
        if (stream := self.streams.get(event.stream_id)) is not None:
            stream.on_data(event.data, event.end_stream)
            if not event.end_stream:
                self.streams_with_data.add(stream)

    def _on_trailers(self, event: events.TrailersReceived[Trailers | None]) -> None:
        if (stream := self.streams.get(event.stream_id)) is not None:
            stream.on_end_stream(event.trailers)

    def _on_reset(self, event: events.StreamReset) -> None:
        stream = self.streams.get(event.stream_id)
        if stream is None:
            return
        error = error_for_reset(event.error_code, event.reason)
        # A call whose response has started was processed, whatever the error code says.
        if event.remote_reset and event.error_code == _REFUSED_STREAM and stream.headers is None:
            error = CallRefusedError("the peer refused the call before processing it")
        self._fail_stream(stream, error)

    def _on_window(self, event: events.WindowUpdated) -> None:
        if not event.stream_id:
            self._has_window_opened = True
        elif (stream := self.streams.get(event.stream_id)) is not None:
            stream.on_writable()

    def _on_settings(self, event: events.SettingsReceived) -> None:
        if event.windows_increased:
            for stream in list(self.streams.values()):
                stream.on_writable()

    def _on_failed(self, event: events.ConnectionFailed) -> None:
        name = error_code_name(event.error_code)
        self.close_reason = f"the peer violated HTTP/2 ({name}: {event.reason})"
        self._fail_streams_if_few()

    def _on_goaway(self, event: events.GoAwayReceived) -> None:
        if event.error_code:
            name = error_code_name(event.error_code)
            why = event.debug_data.decode("utf-8", "replace")
            self.close_reason = f"the peer closed the connection ({name} {why})"

    def _on_ping_ack(self, event: events.PingAckReceived) -> None:
        """Handle the acknowledgement of a PING."""


async def check_timeouts_forever(connections: Collection[Connection]) -> None:
    """Check the timeouts of the connections that there are, once a second.

    After a suspension of the process a check is left out, so that what peers have sent meanwhile is
    read first.
    """
    due = trio.current_time() + CHECK_INTERVAL
    while True:
        await sleep_until_tick(CHECK_INTERVAL)
        now = trio.current_time()
        if now < due + CHECK_INTERVAL:
            for connection in list(connections):
                connection.check_timeouts(now)
        due = now + CHECK_INTERVAL
