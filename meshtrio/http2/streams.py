"""The streams of a connection: which are open, idle, closed or refused."""

from __future__ import annotations

from meshtrio.http2.abuse_limits import AbuseLimits
from meshtrio.http2.errors import ErrorCode, LocalProtocolError, RemoteProtocolError
from meshtrio.http2.frames import MAX_STREAM_ID
from meshtrio.http2.reset_streams import ResetStreams
from meshtrio.http2.settings import PeerSettings
from meshtrio.http2.stream import H2Stream, StreamInput, StreamState

_CLOSED = StreamState.CLOSED
_HALF_CLOSED_LOCAL = StreamState.HALF_CLOSED_LOCAL
_HALF_CLOSED_REMOTE = StreamState.HALF_CLOSED_REMOTE


class StreamTable:
    """Records of the streams that are neither idle nor closed, and what is known of the others."""

    __slots__ = (
        "_abuse",
        "_failure_exempt_state",
        "_is_client",
        "_receive_window",
        "_settings",
        "by_id",
        "failed_count",
        "highest_received_id",
        "max_accepted_id",
        "next_id",
        "received_count",
        "resets",
    )

    def __init__(
        self, settings: PeerSettings, abuse: AbuseLimits, receive_window: int, *, is_client: bool
    ) -> None:
        """Create an empty table of streams with a receive window of `receive_window` bytes."""
        self._settings = settings
        self._abuse = abuse
        self._receive_window = receive_window
        self._is_client = is_client
        self._failure_exempt_state = _HALF_CLOSED_REMOTE if is_client else _HALF_CLOSED_LOCAL
        self.by_id: dict[int, H2Stream] = {}
        """Streams that are neither idle nor closed."""
        self.resets = ResetStreams()
        """Streams that were reset by either side."""
        self.failed_count = 0
        """Number of streams that the server did not end: reset, or lost with the connection."""
        self.received_count = 0
        """Number of streams that the client has opened, on a server."""
        self.next_id = 1
        """Id of the next stream that this side opens, on a client."""
        self.highest_received_id = 0
        """Highest id of a stream that the client has opened, on a server."""
        self.max_accepted_id = MAX_STREAM_ID
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

    def remove_if_closed(self, stream: H2Stream) -> None:
        """Remove a stream that both sides have ended."""
        if stream.state is _CLOSED:
            self.by_id.pop(stream.id, None)
            self._abuse.reset_bucket.credits += 1

    def reset(self, stream: H2Stream, *, reply_due: bool = False) -> None:
        """Remove a stream that is reset by either side; for `reply_due` see `ResetStreams.add`."""
        self.count_failed(stream)
        stream.process_input(StreamInput.RESET)
        self.by_id.pop(stream.id, None)
        self.resets.add(stream.id, reply_due=reply_due)

    def count_failed(self, stream: H2Stream) -> None:
        """Count a stream that ends now as failed, unless the server had ended its half."""
        if stream.state is not self._failure_exempt_state:
            self.failed_count += 1

    def is_idle(self, stream_id: int) -> bool:
        """Return whether a stream was never opened."""
        if stream_id % 2:
            highest = self.next_id - 2 if self._is_client else self.highest_received_id
            return stream_id > highest
        return True

    def check_late_frame(self, stream_id: int, what: str) -> bool:
        """Check a frame on a stream that is not in the table.

        It may be late, after a reset. A server that sends on a stream that it has ended violates
        the protocol, but a client ignores that: other calls share the connection, in the gateway
        even those of several clients.

        Returns:
            Whether the frame is to be answered with RST_STREAM.

        Raises:
            RemoteProtocolError: The stream is idle, or the client had ended it.
            DenialOfServiceError: The server has sent too many such frames.
        """
        if not stream_id or self.is_idle(stream_id):
            raise RemoteProtocolError(
                ErrorCode.PROTOCOL_ERROR, f"{what} on idle stream {stream_id}"
            )
        if stream_id not in self.resets:
            if not self._is_client:
                raise RemoteProtocolError(
                    ErrorCode.STREAM_CLOSED, f"{what} on closed stream {stream_id}"
                )
            self._abuse.charge_control_frame("frames on closed streams")
        return self.resets.pop_reply_due(stream_id)
