"""State of one stream: RFC 9113 §5.1 as a table."""

from __future__ import annotations

from enum import IntEnum

import attrs

from meshtrio.http2.errors import ErrorCode, LocalProtocolError, StreamError
from meshtrio.http2.frames import MAX_WINDOW_SIZE


class StreamState(IntEnum):
    """States of a stream, RFC 9113 §5.1.

                                 +--------+
                                 |  idle  |
                                 +--------+
                                     | send HEADERS or
                                     | receive HEADERS
                                     v
                                 +--------+
         receive END_STREAM      |        |      send END_STREAM
               +-----------------|  open  |-----------------+
               |                 |        |                 |
               v                 +--------+                 v
        +-------------+              |               +-------------+
        | half-closed |              |               | half-closed |
        |  (remote)   |              |               |   (local)   |
        +-------------+              |               +-------------+
               |                     | send or              |
               | send END_STREAM,    | receive RST_STREAM   | receive END_STREAM,
               | send or             |                      | send or
               | receive RST_STREAM  v                      | receive RST_STREAM
               |                 +--------+                 |
               +---------------->| closed |<----------------+
                                 +--------+

    The reserved states are missing, since no role here accepts PUSH_PROMISE. Idle streams have no
    record: HEADERS create it. Closed streams lose theirs, and the connection tells idle from closed
    by the stream id (`StreamTable.is_idle`).
    """

    OPEN = 0
    """Both sides may send."""
    HALF_CLOSED_LOCAL = 1
    """This side has ended its half, and the peer may still send."""
    HALF_CLOSED_REMOTE = 2
    """The peer has ended its half, and this side may still send."""
    CLOSED = 3
    """Both halves have ended, or the stream was reset."""


class StreamInput(IntEnum):
    """Frames that change the state of a stream: SEND by this side, RECEIVE by the peer."""

    SEND = 0
    """HEADERS or DATA without END_STREAM was sent."""
    SEND_END = 1
    """HEADERS or DATA with END_STREAM was sent."""
    RECEIVE = 2
    """HEADERS or DATA without END_STREAM was received."""
    RECEIVE_END = 3
    """HEADERS or DATA with END_STREAM was received."""
    RESET = 4
    """RST_STREAM was sent or received."""


_OPEN, _LOCAL, _REMOTE, _CLOSED = StreamState
TRANSITIONS: tuple[tuple[StreamState | None, ...], ...] = (
    # SEND, SEND_END, RECEIVE, RECEIVE_END, RESET
    (_OPEN, _LOCAL, _OPEN, _REMOTE, _CLOSED),
    (None, None, _LOCAL, _CLOSED, _CLOSED),
    (_REMOTE, _CLOSED, None, None, _CLOSED),
    (None, None, None, None, None),
)
"""The next state by state and input; None if the input is not allowed in the state.

What runs for every frame looks it up here, and calls `H2Stream.process_input` for its errors.
"""


@attrs.define(eq=False, weakref_slot=False)
class H2Stream:
    """Record of a stream that is neither idle nor closed."""

    id: int
    """The stream id."""
    send_window: int
    """Number of bytes of DATA that may be sent; negative if the peer has reduced its initial window
    (RFC 9113 §6.9.2)."""
    receive_window: int
    """Number of bytes of DATA that the peer may send."""
    state: StreamState = _OPEN
    """The state, which `process_input` changes."""
    headers_received: bool = False
    """Whether request headers (on a server) or final response headers were received."""
    response_started: bool = False
    """On a server, whether response headers were sent."""
    opened_at: float = 0.0
    """On a server, the time at which the request was received (seconds, monotonic)."""
    has_deadline: bool = False
    """On a server, whether the request has a timeout."""
    remaining_content_length: int | None = None
    """Number of bytes of DATA that content-length announces and that have not been received; None
    without content-length."""

    def process_input(self, input: StreamInput) -> None:
        """Change the state.

        Raises:
            StreamError: The peer may not send this frame in the current state.
            LocalProtocolError: This side may not.
        """
        next_state = TRANSITIONS[self.state][input]
        if next_state is None:
            what = f"{input.name} in state {self.state.name}"
            if input in (StreamInput.RECEIVE, StreamInput.RECEIVE_END):
                raise StreamError(self.id, what, ErrorCode.STREAM_CLOSED)
            raise LocalProtocolError(f"stream {self.id}: {what}")
        self.state = next_state

    def increase_send_window(self, increment: int) -> None:
        """Apply WINDOW_UPDATE. Raises StreamError."""
        if not increment:
            raise StreamError(self.id, "WINDOW_UPDATE of zero")
        self.send_window += increment
        if self.send_window > MAX_WINDOW_SIZE:
            reason = "the stream's window overflows"
            raise StreamError(self.id, reason, ErrorCode.FLOW_CONTROL_ERROR)

    def consume_content_length(self, size: int, *, end_stream: bool) -> None:
        """Compare received DATA with content-length, which was received (RFC 9113 §8.1.1).

        Raises StreamError.
        """
        assert self.remaining_content_length is not None
        self.remaining_content_length -= size
        if self.remaining_content_length < 0 or (end_stream and self.remaining_content_length):
            raise StreamError(self.id, "content-length differs from the DATA sent")
