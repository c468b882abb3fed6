"""The client's side of a connection."""

from __future__ import annotations

from typing import TypeVar

import purerpc
import trio

from meshtrio.errors import CallRefusedError, ConnectionLostError
from meshtrio.rpc.connection import Connection
from meshtrio.rpc.status import error_for_response
from meshtrio.rpc.stream import Stream
from meshtrio.rpc.timeouts import Timeouts
from meshtrio.rpc.transport import Transport
from meshtrio.wire import events
from meshtrio.wire.connection import Role
from meshtrio.wire.errors import ErrorCode
from meshtrio.wire.limits import Limits

S = TypeVar("S", bound=Stream)


class ClientConnection(Connection):
    """A connection that opens streams; see `Connection` for who owns what."""

    def __init__(
        self,
        transport: Transport,
        limits: Limits | None = None,
        timeouts: Timeouts | None = None,
    ) -> None:
        super().__init__(transport, Role.CLIENT, limits, timeouts)
        self.retired = False
        """Opens no further stream, and closes once those it has are over."""
        self.peer_shuts_down = False
        """The server has sent GOAWAY with NO_ERROR."""
        self.established = trio.Event()
        """The server has spoken HTTP/2, or never will: see `usable`."""
        self.ended = trio.Event()
        """Set by who runs it, once it has."""
        self.spent = trio.Event()
        """Set when no further stream can be opened."""
        self._room = trio.lowlevel.ParkingLot()

    @property
    def usable(self) -> bool:
        return not (self.retired or self.closed or self.engine.exhausted)

    @property
    def has_room(self) -> bool:
        """Whether a stream can be opened just now."""
        return self.engine.can_open_stream and not self.closed

    def start(self, block: bytes) -> Stream | None:
        """Open a stream with a request's head, None where no stream can be opened just now.

        Nothing is written yet: the message that follows goes out in the same system call.
        """
        return self.start_as(Stream, block)

    def start_as(self, kind: type[S], block: bytes) -> S | None:
        """The same, as a stream of another kind."""
        engine = self.engine
        if self.closed or not engine.can_open_stream:
            return None
        stream = kind(self, engine.open_stream(block))
        self.streams[stream.id] = stream
        if engine.exhausted:
            self.retire()
        return stream

    async def wait_for_room(self) -> None:
        """Wait until a stream may have become free on this connection, or it is of no more use."""
        while self.usable and not self.engine.can_open_stream:
            await self._room.park()

    def offer_room(self) -> None:
        """Let the next one who waits for room have a place that is not used after all."""
        self._room.unpark()

    def retire(self, reason: str = "the connection is no longer needed") -> None:
        """Take no new calls, let those under way finish, then close.

        `reason` is what `loss` says if it closes at once.
        """
        self.retired = True
        self._mark_spent()
        if not self.streams:
            self.shut(reason)

    def _on_stream_gone(self, stream: Stream) -> None:
        trailers = stream.trailers
        if trailers is None or trailers.code:
            self.tally.failed += 1
        if self._room:
            self._room.unpark()
        if not self.streams and (self.retired or self.engine.peer_last_stream_id is not None):
            self.retire()

    def _on_settings(self, event: events.SettingsReceived) -> None:
        super()._on_settings(event)
        self.established.set()
        self._room.unpark_all()

    def _on_response(self, event: events.ResponseReceived) -> None:
        stream = self.streams.get(event.stream_id)
        if stream is None:
            return
        head = stream.head = event.head
        if event.end_stream:
            stream.on_end(head.trailers)
        elif (failure := error_for_response(head)) is not None:
            stream.fail(failure)
        else:
            stream.on_head(head)

    def _on_goaway(self, event: events.GoAwayReceived) -> None:
        super()._on_goaway(event)
        self.peer_shuts_down = event.code == ErrorCode.NO_ERROR
        for stream in list(self.streams.values()):
            if stream.id > event.last_stream_id:
                self._fail(stream, self._unprocessed(event.code))
        if event.code:
            self.retire(self.loss)
        else:
            self.retire()

    def _unprocessed(self, code: int) -> purerpc.RpcFailedError:
        """A call above the last stream id: safe to make again, unless it may be the reason."""
        if code == ErrorCode.NO_ERROR:
            return CallRefusedError("the peer shut down before processing the call")
        return ConnectionLostError(self.loss)

    def _close_calls(self) -> None:
        super()._close_calls()
        self._mark_spent()

    def _mark_spent(self) -> None:
        self.spent.set()
        self.established.set()
        self._room.unpark_all()
