"""The client's side of a connection."""

from __future__ import annotations

from typing import TypeVar

import purerpc
import trio

from meshtrio.errors import CallRefusedError, ConnectionLostError
from meshtrio.grpc.headers import ResponseHeaders
from meshtrio.http2 import events
from meshtrio.http2.connection import Role
from meshtrio.http2.errors import ErrorCode
from meshtrio.http2.limits import Limits
from meshtrio.rpc.connection import Connection
from meshtrio.rpc.errors import error_for_response
from meshtrio.rpc.stats import CallCounters, ConnectionStatistics
from meshtrio.rpc.stream import Stream
from meshtrio.rpc.timeouts import Timeouts
from meshtrio.transport.transport import Transport

S = TypeVar("S", bound=Stream)


class ClientConnection(Connection):
    """A connection that opens streams; see `GrpcConnection` for who owns what."""

    def __init__(
        self,
        transport: Transport,
        limits: Limits | None = None,
        timeouts: Timeouts | None = None,
    ) -> None:
        super().__init__(transport, Role.CLIENT, limits, timeouts)
        self.is_draining = False
        """Opens no further stream, and closes once those it has are over."""
        self.is_peer_shutting_down = False
        """The server has sent GOAWAY with NO_ERROR."""
        self.established = trio.Event()
        """The server has spoken HTTP/2, or never will: see `usable`."""
        self.run_finished = trio.Event()
        """Set by who runs it, once it has."""
        self.exhausted = trio.Event()
        """Set when no further stream can be opened."""
        self._queue_offsets: dict[int, int] = {}
        """Streams opened while the write buffer was not empty, with the value of `drained_size` at
        which the first of their bytes may go out."""
        self._slot_waiters = trio.lowlevel.ParkingLot()

    @property
    def is_usable(self) -> bool:
        return not (self.is_draining or self.closed or self.engine.exhausted)

    @property
    def has_stream_slot(self) -> bool:
        """Whether a stream can be opened just now."""
        return self.engine.can_open_stream and not self.closed

    def open_stream(self, block: bytes) -> Stream | None:
        """Open a stream with a request's head, None where no stream can be opened just now.

        Nothing is written yet: the message that follows goes out in the same system call.
        """
        return self.open_stream_as(Stream, block)

    def open_stream_as(self, stream_class: type[S], block: bytes) -> S | None:
        """The same, as a stream of another kind."""
        engine = self.engine
        if self.closed or not engine.can_open_stream:
            return None
        stream = stream_class(self, engine.open_stream(block))
        self.streams[stream.id] = stream
        if self.write_buffer.size:
            self._queue_offsets[stream.id] = self.write_buffer.queued_until
        if engine.exhausted:
            self.start_draining()
        return stream

    async def wait_for_stream_slot(self) -> None:
        """Wait until a stream may have become free on this connection, or it is of no more use."""
        while self.is_usable and not self.engine.can_open_stream:
            await self._slot_waiters.park()

    def notify_stream_slot(self) -> None:
        """Let the next one who waits for room have a place that is not used after all."""
        self._slot_waiters.unpark()

    def start_draining(self, reason: str = "the connection is no longer needed") -> None:
        """Take no new calls, let those under way finish, then close.

        `reason` is what `loss` says if it closes at once.
        """
        self.is_draining = True
        self._mark_exhausted()
        if not self.streams:
            self.close(reason)

    def statistics(self) -> ConnectionStatistics:
        # Only failures are counted: the rest follows from the number of streams.
        engine, counters = self.engine, self.counters
        started = engine.streams_opened
        succeeded = started - counters.failed - len(self.streams)
        calls = CallCounters(started, succeeded, counters.failed)
        calls.last_started = counters.last_started
        sent = started - counters.streamed_requests + counters.messages_sent
        received = succeeded - counters.streamed_replies + counters.messages_received
        return ConnectionStatistics(calls, self._stream_statistics(started), (sent, received))

    def _on_stream_removed(self, stream: Stream) -> None:
        if self._queue_offsets:
            self._queue_offsets.pop(stream.id, None)
        trailers = stream.trailers
        if trailers is None or trailers.code:
            self.counters.failed += 1
        if self._slot_waiters:
            self._slot_waiters.unpark()
        if not self.streams and (self.is_draining or self.engine.peer_last_stream_id is not None):
            self.start_draining()

    def _on_settings(self, event: events.SettingsReceived) -> None:
        super()._on_settings(event)
        self.established.set()
        self._slot_waiters.unpark_all()

    def _on_response(self, event: events.ResponseReceived[ResponseHeaders]) -> None:
        stream = self.streams.get(event.stream_id)
        if stream is None:
            return
        head = stream.headers = event.headers
        if event.end_stream:
            stream.on_end_stream(head.trailers)
        elif (failure := error_for_response(head)) is not None:
            stream.fail(failure)
        else:
            stream.on_headers(head)

    def _on_goaway(self, event: events.GoAwayReceived) -> None:
        super()._on_goaway(event)
        self.is_peer_shutting_down = event.error_code == ErrorCode.NO_ERROR
        for stream in list(self.streams.values()):
            if stream.id > event.last_stream_id:
                self._fail_stream(stream, self._error_for_unprocessed(event.error_code))
        if event.error_code:
            self.start_draining(self.close_reason)
        else:
            self.start_draining()

    def _fail_stream(self, stream: Stream, error: purerpc.RpcFailedError) -> None:
        if self.closed and isinstance(error, ConnectionLostError):
            offset = self._queue_offsets.get(stream.id)
            if offset is not None and self.write_buffer.drained_size <= offset:
                error = CallRefusedError(
                    f"the connection ended before the call was sent: {self.close_reason}",
                    reached_server=False,
                )
        super()._fail_stream(stream, error)

    def _error_for_unprocessed(self, code: int) -> purerpc.RpcFailedError:
        """A call above the last stream id: safe to make again, unless it may be the reason."""
        if code == ErrorCode.NO_ERROR:
            return CallRefusedError("the peer shut down before processing the call")
        return ConnectionLostError(self.close_reason)

    def _mark_closed(self) -> None:
        super()._mark_closed()
        self._mark_exhausted()

    def _mark_exhausted(self) -> None:
        self.exhausted.set()
        self.established.set()
        self._slot_waiters.unpark_all()
