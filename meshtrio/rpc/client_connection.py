"""The client's side of a connection."""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

import purerpc
import trio

from meshtrio.errors import CallRefusedError, ConnectionLostError
from meshtrio.grpc.framing import MIN_SEPARATE_PREFIX_SIZE, pack_message_prefix
from meshtrio.grpc.header_builder import PSEUDO_HEADERS
from meshtrio.grpc.headers import ResponseHeaders
from meshtrio.http2 import events
from meshtrio.http2.errors import ErrorCode, LocalProtocolError
from meshtrio.http2.frames import MAX_STREAM_ID
from meshtrio.http2.limits import Limits
from meshtrio.rpc.connection import Connection
from meshtrio.rpc.connection_io import CLOSE_TIMEOUT
from meshtrio.rpc.errors import error_for_response
from meshtrio.rpc.stats import CallCounters, ConnectionStatistics
from meshtrio.rpc.stream import Stream
from meshtrio.rpc.timeouts import Timeouts
from meshtrio.transport.transport import Transport

if TYPE_CHECKING:
    from meshtrio.rpc.connected_stream import ConnectedStream

S = TypeVar("S", bound="ConnectedStream")
_UNUSED_TEXT = "the connection is no longer needed"


class ClientConnection(Connection):
    """A connection that opens streams; `Connection` says who owns what."""

    is_client = True
    events_per_write = 3  # A reply's headers, message and trailers: then comes the next call.

    def __init__(
        self,
        transport: Transport,
        limits: Limits | None = None,
        timeouts: Timeouts | None = None,
        on_established: Callable[[ClientConnection], None] | None = None,
    ) -> None:
        """`on_established` is called after the read that has brought the server's SETTINGS."""
        super().__init__(transport, limits, timeouts)
        self._on_established = on_established
        self._is_preface_delayed = False
        """Whether the first call is sent with the connection preface."""
        self._is_established = False
        """Whether the server has sent SETTINGS."""
        self._event_handlers[events.ResponseReceived] = self._on_response
        self.pseudo_headers = PSEUDO_HEADERS[transport.ssl_object is not None]
        """The fields with which all requests begin."""
        self.is_draining = False
        """Whether no new stream is opened, and the connection closes with its last stream."""
        self.is_peer_shutting_down = False
        """Whether the server has sent GOAWAY with NO_ERROR."""
        self.run_finished = trio.Event()
        """Set by the owner of the connection when `run` has returned."""
        self.exhausted = trio.Event()
        """Set when no further stream can be opened."""
        self._queue_offsets: dict[int, int] = {}
        """Streams opened while the write buffer was not empty, with the value of `drained_size` at
        which the first of their bytes may go out."""
        self._slot_waiters = trio.lowlevel.ParkingLot()

    async def _drain_before_close(self) -> None:
        if self.transport.sock.family == socket.AF_UNIX:
            # What the server has not read yet is not discarded when a Unix socket is closed.
            if self.write_buffer.size:
                with trio.move_on_after(CLOSE_TIMEOUT):
                    await self.write_buffer.wait_drained()
        else:
            await super()._drain_before_close()

    def delay_preface(self) -> None:
        """Send the connection preface together with the first call, which is about to be made."""
        if type(self.transport) is Transport:
            self._is_handshake_done = self._is_preface_delayed = True
            self.write_coalescer.expect(2)  # The call, and `run`.

    @property
    def is_usable(self) -> bool:
        """Whether the connection can open streams, now or once others have ended."""
        return not (self.is_draining or self.closed or self._engine.exhausted)

    @property
    def has_stream_slot(self) -> bool:
        """Whether a stream can be opened now."""
        return not (self.closed or self.is_draining) and self._engine.can_open_stream

    def open_stream(
        self, stream_class: Callable[[ClientConnection, int], S], block: bytes
    ) -> S | None:
        """Open a stream with request headers; return None if no stream can be opened now.

        Nothing is written yet, so that the request is sent in the same system call.
        """
        if self.closed:
            return None
        try:
            stream = stream_class(self, self._engine.open_stream(block))
        except LocalProtocolError:
            return None
        self.streams[stream.id] = stream
        if self.write_buffer.size:
            self._queue_offsets[stream.id] = self.write_buffer.drained_size + self.write_buffer.size
        if stream.id + 2 > MAX_STREAM_ID:
            self.start_draining()
        return stream

    def try_start_unary(self, block: bytes, message: bytes) -> Stream | None:
        """Open a stream and send the only request of its call, if nothing has to be waited for.

        The same as `open_stream` and `Stream.try_send` in fewer steps, for nearly all unary calls.
        Returns None, without effect, if the request has to be sent by those.
        """
        size = len(message)
        if (
            self.closed
            or size > MIN_SEPARATE_PREFIX_SIZE
            or size > self.message_limits.max_send_length
            or self.write_buffer.size
            or self.window_waiters.streams
        ):
            return None
        data = pack_message_prefix(False, size) + message
        stream_id = self._engine.try_open_stream_with_data(block, data)
        if not stream_id:
            return None
        stream = self.streams[stream_id] = Stream(self, stream_id)
        stream.sent_size, stream.request_sent = size, True
        self.flush()
        if stream_id + 2 > MAX_STREAM_ID:
            self.start_draining()
        return stream

    async def wait_for_stream_slot(self) -> None:
        """Wait until a stream slot may be free, or the connection is not usable any more."""
        while self.is_usable and not self._engine.can_open_stream:
            await self._slot_waiters.park()

    def notify_stream_slot(self) -> None:
        """Wake the next task that waits for a stream slot, because this one is not used."""
        self._slot_waiters.unpark()

    def start_draining(self, reason: str = _UNUSED_TEXT) -> None:
        """Open no new streams, and close when the last stream ends, or now if there is none."""
        self.is_draining = True
        self._mark_exhausted()
        if not self.streams:
            self.close(reason)

    def statistics(self) -> ConnectionStatistics:
        # Only failures are counted: the rest follows from the number of streams.
        engine, counters = self._engine, self.counters
        started = engine.streams.next_id // 2
        succeeded = started - counters.failed - len(self.streams)
        calls = CallCounters(started, succeeded, counters.failed)
        calls.last_started = counters.last_started
        sent = started - counters.streamed_requests + counters.messages_sent
        received = succeeded - counters.streamed_replies + counters.messages_received
        return ConnectionStatistics(calls, self._stream_statistics(started), (sent, received))

    def _on_stream_removed(self, stream: ConnectedStream) -> None:
        if self._queue_offsets:
            self._queue_offsets.pop(stream.id, None)
        trailers = stream.trailers
        if trailers is None or trailers.code:
            self.counters.failed += 1
        if self._slot_waiters:
            self._slot_waiters.unpark()
        if self.is_draining and not self.streams:
            self.start_draining()

    def _on_settings(self, event: events.SettingsReceived) -> None:
        super()._on_settings(event)
        if not self._is_established:
            self._is_established = self._is_newly_established = True
            if not self._is_preface_delayed:  # Else no calls wait any more.
                self.write_coalescer.expect(2)
        self._slot_waiters.unpark_all()

    async def _read_loop(self) -> None:
        if self.write_coalescer.expected_writers:
            await self.write_coalescer.run(1, self.flush)
        await super()._read_loop()
        if self._is_newly_established:
            self._is_newly_established = False
            if self._on_established is not None:
                self._on_established(self)
            if self.write_coalescer.expected_writers:
                # The calls that have waited send requests with the acknowledgement of SETTINGS.
                await self.write_coalescer.run(1, self.flush)
            await super()._read_loop()

    def _on_response(self, event: events.ResponseReceived[ResponseHeaders]) -> None:
        stream = self.streams.get(event.stream_id)
        if stream is None:
            return
        headers = stream.headers = event.headers
        if event.end_stream:
            stream.on_end_stream(headers.trailers)
        elif not headers.is_grpc and (error := error_for_response(headers)) is not None:
            stream.fail(error)
        else:
            stream.on_headers(headers)

    def _on_goaway(self, event: events.GoAwayReceived) -> None:
        super()._on_goaway(event)
        self.is_peer_shutting_down = event.error_code == ErrorCode.NO_ERROR
        unprocessed = [each for each in self.streams.values() if each.id > event.last_stream_id]
        for stream in unprocessed:
            # The call is safe to retry, unless it may be the reason for the GOAWAY.
            error: purerpc.RpcFailedError = ConnectionLostError(self.close_reason)
            if self.is_peer_shutting_down:
                error = CallRefusedError("the peer shut down before processing the call")
            self._fail_stream(stream, error)
        self.start_draining(self.close_reason if event.error_code else _UNUSED_TEXT)

    def _fail_stream(self, stream: ConnectedStream, error: purerpc.RpcFailedError) -> None:
        if self.closed and isinstance(error, ConnectionLostError):
            offset = self._queue_offsets.get(stream.id)
            if offset is not None and self.write_buffer.drained_size <= offset:
                error = CallRefusedError(
                    f"the connection ended before the call was sent: {self.close_reason}",
                    reached_server=False,
                )
        super()._fail_stream(stream, error)

    def _mark_closed(self) -> None:
        super()._mark_closed()
        self._mark_exhausted()

    def _mark_exhausted(self) -> None:
        self.exhausted.set()
        if self._slot_waiters:
            self._slot_waiters.unpark_all()
