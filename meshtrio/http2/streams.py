"""The streams of a connection: which are open, idle, closed, refused or were reset; its windows."""

from __future__ import annotations

from collections import OrderedDict

import attrs

from meshtrio.http2.abuse_limits import AbuseLimits
from meshtrio.http2.errors import ErrorCode, LocalProtocolError, RemoteProtocolError
from meshtrio.http2.frames import DEFAULT_INITIAL_WINDOW_SIZE, MAX_STREAM_ID, MAX_WINDOW_SIZE
from meshtrio.http2.settings import PeerSettings
from meshtrio.http2.stream import H2Stream, StreamInput, StreamState

_, _HALF_CLOSED_LOCAL, _HALF_CLOSED_REMOTE, _ = StreamState
_RESET = StreamInput.RESET
_MAX_RECENT_RESETS = 256
"""Number of resets that are remembered one by one."""


class ResetStreams:
    """Remembers which streams were reset, by either side, as their late frames have to be ignored.

    A peer may have sent frames on a stream before it receives RST_STREAM, or after it has sent it
    (grpc-java sends RST_STREAM at a deadline, and then the trailers that were queued). They concern
    no other stream, so they are dropped (RFC 9113 §5.1, "closed").

    Only the most recent resets are remembered individually. All streams below those count as reset,
    so that a peer is not failed for frames that are late by many streams.
    """

    def __init__(self) -> None:
        self._recently_reset: OrderedDict[int, bool] = OrderedDict()
        """By stream id, whether the next late frame is to be answered."""
        self._forgotten_up_to = 0

    def add(self, stream_id: int, *, reply_due: bool = False) -> None:
        """Remember a reset.

        `reply_due` is whether the first late frame is to be answered with STREAM_CLOSED.
        """
        self._recently_reset[stream_id] = reply_due
        if len(self._recently_reset) > _MAX_RECENT_RESETS:
            oldest, _ = self._recently_reset.popitem(last=False)
            self._forgotten_up_to = max(self._forgotten_up_to, oldest)

    def __contains__(self, stream_id: int) -> bool:
        return stream_id in self._recently_reset or stream_id <= self._forgotten_up_to

    def pop_reply_due(self, stream_id: int) -> bool:
        """Return whether a late frame is to be answered: at most once for each stream."""
        if not self._recently_reset.get(stream_id):
            return False
        self._recently_reset[stream_id] = False
        return True


@attrs.define(eq=False)
class StreamTable:
    """Records of the streams that are neither idle nor closed, and what is known of the others."""

    _settings: PeerSettings
    _abuse: AbuseLimits
    _receive_window: int
    """Receive window of a new stream, in bytes."""
    _is_client: bool
    by_id: dict[int, H2Stream] = attrs.field(factory=dict)
    """Streams that are neither idle nor closed."""
    resets: ResetStreams = attrs.field(factory=ResetStreams)
    """Streams that were reset by either side."""
    failed_count: int = 0
    """Number of streams that the server did not end: reset, or lost with the connection."""
    received_count: int = 0
    """Number of streams that the client has opened, on a server."""
    next_id: int = 1
    """Id of the next stream that this side opens, on a client."""
    highest_received_id: int = 0
    """Highest id of a stream that the client has opened, on a server."""
    peer_last_stream_id: int | None = None
    """Highest stream id that the peer may process, from its GOAWAY; None without GOAWAY."""
    max_accepted_id: int = MAX_STREAM_ID
    """Highest id of a stream that is not refused, on a server."""

    def open(self) -> H2Stream:
        """Open a stream on a client."""
        stream_id = self.next_id
        self.next_id = stream_id + 2
        stream = H2Stream(stream_id, self._settings.initial_window_size, self._receive_window)
        self.by_id[stream_id] = stream
        return stream

    def accept(self, stream_id: int, max_concurrent_streams: int) -> H2Stream | None:
        """Open a stream of the client's on a server; None if it has to be refused."""
        if len(self.by_id) >= max_concurrent_streams or stream_id > self.max_accepted_id:
            self.resets.add(stream_id)
            return None
        stream = H2Stream(stream_id, self._settings.initial_window_size, self._receive_window)
        stream.headers_received = True
        stream.opened_at = self._abuse.now
        self.by_id[stream_id] = stream
        return stream

    def get_open(self, stream_id: int) -> H2Stream:
        """Return a stream to send on. Raises LocalProtocolError if it is idle or closed."""
        stream = self.by_id.get(stream_id)
        if stream is None:
            raise LocalProtocolError(f"stream {stream_id} is not open")
        return stream

    def remove_closed(self, stream: H2Stream) -> None:
        """Remove a stream that both sides have ended."""
        self.by_id.pop(stream.id, None)
        self._abuse.reset_bucket.credits += 1

    def reset(self, stream: H2Stream, *, reply_due: bool = False) -> None:
        """Remove a stream that is reset by either side; for `reply_due` see `ResetStreams.add`."""
        self.count_failed(stream)
        stream.process_input(_RESET)
        self.by_id.pop(stream.id, None)
        self.resets.add(stream.id, reply_due=reply_due)

    def count_failed(self, stream: H2Stream) -> None:
        """Count a stream that ends now as failed, unless the server had ended its half."""
        if stream.state is not (_HALF_CLOSED_REMOTE if self._is_client else _HALF_CLOSED_LOCAL):
            self.failed_count += 1

    def is_idle(self, stream_id: int) -> bool:
        """Return whether a stream was never opened."""
        highest = self.next_id - 2 if self._is_client else self.highest_received_id
        return stream_id % 2 == 0 or stream_id > highest

    def check_late_frame(self, stream_id: int, what: str) -> bool:
        """Check a frame on a stream that is not in the table.

        It may be late, after a reset. A server that sends on a stream that it has ended violates
        the protocol, but a client ignores that: other calls share the connection, in the gateway
        even those of several clients.

        Returns whether the frame is to be answered with RST_STREAM. Raises RemoteProtocolError.
        """
        if not stream_id or self.is_idle(stream_id):
            raise RemoteProtocolError(f"{what} on idle stream {stream_id}")
        if stream_id not in self.resets:
            if not self._is_client:
                reason = f"{what} on closed stream {stream_id}"
                raise RemoteProtocolError(reason, ErrorCode.STREAM_CLOSED)
            self._abuse.charge_control_frame("frames on closed streams")
        return self.resets.pop_reply_due(stream_id)


@attrs.define(eq=False)
class ConnectionWindows:
    """The two flow control windows of a connection, in bytes (RFC 9113 §5.2 and §6.9).

    The receive window is restored as DATA arrives, so that one stream which is not read cannot stop
    the others. A stream's receive window is restored by its reader
    (`H2Connection.set_receive_window`), so that a stream which is not read stops its own sender.
    """

    full_receive: int
    """Size of the receive window when it is restored."""
    send: int = DEFAULT_INITIAL_WINDOW_SIZE
    """Number of bytes of DATA that may be sent."""
    receive: int = attrs.field(init=False)
    """Number of bytes of DATA that the peer may send."""

    def __attrs_post_init__(self) -> None:
        self.receive = self.full_receive

    def restore_receive(self) -> int:
        """Restore the receive window, which is half used, after DATA was subtracted from it.

        Returns the increment for WINDOW_UPDATE. Raises RemoteProtocolError if it was exceeded.
        """
        if self.receive < 0:
            reason = "more DATA than the connection's window"
            raise RemoteProtocolError(reason, ErrorCode.FLOW_CONTROL_ERROR)
        increment = self.full_receive - self.receive
        self.receive = self.full_receive
        return increment

    def increase_send(self, increment: int) -> None:
        """Apply WINDOW_UPDATE for the connection. Raises RemoteProtocolError."""
        if not increment:
            raise RemoteProtocolError("WINDOW_UPDATE of zero")
        self.send += increment
        if self.send > MAX_WINDOW_SIZE:
            raise RemoteProtocolError("the window overflows", ErrorCode.FLOW_CONTROL_ERROR)
