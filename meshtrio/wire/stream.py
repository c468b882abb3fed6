"""The life of one stream: RFC 9113 §5.1 as a table.

Reserved states are missing on purpose: push is disabled by both roles. `IDLE` and `CLOSED` have
no record here; the connection knows them by their ids, and a record is born by HEADERS.
"""

from __future__ import annotations

from enum import IntEnum

from meshtrio.wire.errors import ErrorCode, LocalMisuse, StreamViolation


class StreamState(IntEnum):
    OPEN = 0
    HALF_CLOSED_LOCAL = 1
    HALF_CLOSED_REMOTE = 2
    CLOSED = 3


class Input(IntEnum):
    """What happens to a stream; `SEND_…` is ours, `RECEIVE_…` the peer's."""

    SEND = 0
    SEND_END = 1
    RECEIVE = 2
    RECEIVE_END = 3
    RESET = 4


_S = StreamState
_TRANSITIONS: dict[tuple[StreamState, Input], StreamState] = {
    (_S.OPEN, Input.SEND): _S.OPEN,
    (_S.OPEN, Input.SEND_END): _S.HALF_CLOSED_LOCAL,
    (_S.OPEN, Input.RECEIVE): _S.OPEN,
    (_S.OPEN, Input.RECEIVE_END): _S.HALF_CLOSED_REMOTE,
    (_S.OPEN, Input.RESET): _S.CLOSED,
    (_S.HALF_CLOSED_LOCAL, Input.RECEIVE): _S.HALF_CLOSED_LOCAL,
    (_S.HALF_CLOSED_LOCAL, Input.RECEIVE_END): _S.CLOSED,
    (_S.HALF_CLOSED_LOCAL, Input.RESET): _S.CLOSED,
    (_S.HALF_CLOSED_REMOTE, Input.SEND): _S.HALF_CLOSED_REMOTE,
    (_S.HALF_CLOSED_REMOTE, Input.SEND_END): _S.CLOSED,
    (_S.HALF_CLOSED_REMOTE, Input.RESET): _S.CLOSED,
}

_OPEN = _S.OPEN
_FOLLOWING = tuple(tuple(_TRANSITIONS.get((state, i)) for i in Input) for state in _S)
"""The same by index, which is what every frame looks up."""


class Stream:
    """What a connection keeps of one stream."""

    __slots__ = (
        "answered",
        "body_left",
        "has_deadline",
        "head_received",
        "id",
        "opened_at",
        "receive_window",
        "send_window",
        "state",
    )

    def __init__(self, id: int, send_window: int, receive_window: int) -> None:
        self.id = id
        self.state = _OPEN
        self.send_window = send_window
        self.receive_window = receive_window
        self.head_received = False
        self.answered = False
        """On a server: the response has begun."""
        self.opened_at = 0.0
        """On a server: when the request was received (seconds, monotonic)."""
        self.has_deadline = False
        """On a server: the request has a `grpc-timeout`."""
        self.body_left: int | None = None
        """Bytes of DATA that content-length still promises; None where it was not given."""

    def advance(self, input: Input) -> None:
        """Move to the next state; an unlisted pair is the peer's violation or our own misuse."""
        following = _FOLLOWING[self.state][input]
        if following is None:
            raise self._refusal(input)
        self.state = following

    def _refusal(self, input: Input) -> Exception:
        what = f"{input.name} in state {self.state.name}"
        if input in (Input.RECEIVE, Input.RECEIVE_END):
            return StreamViolation(self.id, ErrorCode.STREAM_CLOSED, what)
        return LocalMisuse(f"stream {self.id}: {what}")
