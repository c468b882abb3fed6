"""The life of one stream: RFC 9113 §5.1 as a table.

Reserved states are missing on purpose: push is disabled by both roles. `IDLE` and `CLOSED` have
no record here; the connection knows them by their ids, and a record is born by HEADERS.
"""

from __future__ import annotations

from enum import IntEnum

from meshtrio.http2.errors import ErrorCode, LocalProtocolError, StreamError


class StreamState(IntEnum):
    OPEN = 0
    HALF_CLOSED_LOCAL = 1
    HALF_CLOSED_REMOTE = 2
    CLOSED = 3


class StreamInput(IntEnum):
    """What happens to a stream; `SEND_…` is ours, `RECEIVE_…` the peer's."""

    SEND = 0
    SEND_END = 1
    RECEIVE = 2
    RECEIVE_END = 3
    RESET = 4


_S = StreamState
_TRANSITIONS: dict[tuple[StreamState, StreamInput], StreamState] = {
    (_S.OPEN, StreamInput.SEND): _S.OPEN,
    (_S.OPEN, StreamInput.SEND_END): _S.HALF_CLOSED_LOCAL,
    (_S.OPEN, StreamInput.RECEIVE): _S.OPEN,
    (_S.OPEN, StreamInput.RECEIVE_END): _S.HALF_CLOSED_REMOTE,
    (_S.OPEN, StreamInput.RESET): _S.CLOSED,
    (_S.HALF_CLOSED_LOCAL, StreamInput.RECEIVE): _S.HALF_CLOSED_LOCAL,
    (_S.HALF_CLOSED_LOCAL, StreamInput.RECEIVE_END): _S.CLOSED,
    (_S.HALF_CLOSED_LOCAL, StreamInput.RESET): _S.CLOSED,
    (_S.HALF_CLOSED_REMOTE, StreamInput.SEND): _S.HALF_CLOSED_REMOTE,
    (_S.HALF_CLOSED_REMOTE, StreamInput.SEND_END): _S.CLOSED,
    (_S.HALF_CLOSED_REMOTE, StreamInput.RESET): _S.CLOSED,
}

_OPEN = _S.OPEN
_NEXT_STATES = tuple(tuple(_TRANSITIONS.get((state, i)) for i in StreamInput) for state in _S)
"""The same by index, which is what every frame looks up."""


class H2Stream:
    """What a connection keeps of one stream."""

    __slots__ = (
        "has_deadline",
        "headers_received",
        "id",
        "opened_at",
        "receive_window",
        "remaining_content_length",
        "response_started",
        "send_window",
        "state",
    )

    def __init__(self, id: int, send_window: int, receive_window: int) -> None:
        self.id = id
        self.state = _OPEN
        self.send_window = send_window
        self.receive_window = receive_window
        self.headers_received = False
        self.response_started = False
        """On a server: the response has begun."""
        self.opened_at = 0.0
        """On a server: when the request was received (seconds, monotonic)."""
        self.has_deadline = False
        """On a server: the request has a `grpc-timeout`."""
        self.remaining_content_length: int | None = None
        """Bytes of DATA that content-length still promises; None where it was not given."""

    def process_input(self, input: StreamInput) -> None:
        """Move to the next state; an unlisted pair is the peer's violation or our own misuse."""
        following = _NEXT_STATES[self.state][input]
        if following is None:
            raise self._invalid_transition(input)
        self.state = following

    def _invalid_transition(self, input: StreamInput) -> Exception:
        what = f"{input.name} in state {self.state.name}"
        if input in (StreamInput.RECEIVE, StreamInput.RECEIVE_END):
            return StreamError(self.id, ErrorCode.STREAM_CLOSED, what)
        return LocalProtocolError(f"stream {self.id}: {what}")
