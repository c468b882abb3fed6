"""Events that `H2Connection.receive_data` returns, in the order of the received frames.

The type of parsed headers is that of the connection's `HeaderParsers`. The classes are written out,
since attrs would take longer to generate them than the rest of the engine takes to be imported.
"""

from __future__ import annotations

from typing import Any, Generic, TypeVar

from meshtrio.util.record import Record

H = TypeVar("H")


class Http2Event(Record):
    """Base of the events."""

    __slots__ = ()


class RequestReceived(Http2Event, Generic[H]):
    """The client opened a stream."""

    __slots__ = ("end_stream", "headers", "stream_id")

    def __init__(self, stream_id: int, headers: H, end_stream: bool) -> None:
        self.stream_id = stream_id
        self.headers = headers
        self.end_stream = end_stream


class RequestHeadersTooLarge(Http2Event):
    """The client opened a stream with a header list that exceeds the limit.

    The list was discarded. The stream is open, and should be answered.
    """

    __slots__ = ("content_type", "end_stream", "reason", "stream_id")

    def __init__(self, stream_id: int, content_type: bytes, end_stream: bool, reason: str) -> None:
        self.stream_id = stream_id
        self.content_type = content_type
        """Value of content-type, by which the caller knows how to answer."""
        self.end_stream = end_stream
        self.reason = reason


class ResponseReceived(Http2Event, Generic[H]):
    """The server sent the headers of the final response; informational ones (1xx) have no event."""

    __slots__ = ("end_stream", "headers", "stream_id")

    def __init__(self, stream_id: int, headers: H, end_stream: bool) -> None:
        self.stream_id = stream_id
        self.headers = headers
        self.end_stream = end_stream


class DataReceived(Http2Event):
    """The peer sent DATA, or a part of a large DATA frame.

    The stream's receive window stays reduced until `H2Connection.set_receive_window`.
    """

    __slots__ = ("data", "end_stream", "stream_id")

    def __init__(self, stream_id: int, data: bytes | memoryview, end_stream: bool) -> None:
        self.stream_id = stream_id
        self.data: Any = data
        """The payload without padding: bytes, or the memoryview that was passed to
        `receive_data`."""
        self.end_stream = end_stream


class TrailersReceived(Http2Event, Generic[H]):
    """The peer ended its half of a stream with trailers."""

    __slots__ = ("stream_id", "trailers")

    def __init__(self, stream_id: int, trailers: H) -> None:
        self.stream_id = stream_id
        self.trailers = trailers


class StreamReset(Http2Event):
    """A stream was reset: by the peer, or by the engine after a violation by the peer."""

    __slots__ = ("error_code", "reason", "remote_reset", "stream_id")

    def __init__(self, stream_id: int, error_code: int, remote_reset: bool, reason: str) -> None:
        self.stream_id = stream_id
        self.error_code = error_code
        self.remote_reset = remote_reset
        """Whether the peer reset it."""
        self.reason = reason


class WindowUpdated(Http2Event):
    """The send window of a stream was increased, or that of the connection for stream id 0."""

    __slots__ = ("stream_id",)

    def __init__(self, stream_id: int) -> None:
        self.stream_id = stream_id


class SettingsReceived(Http2Event):
    """The settings of the peer were applied and acknowledged."""

    __slots__ = ("windows_increased",)

    def __init__(self, windows_increased: bool = False) -> None:
        self.windows_increased = windows_increased
        """Whether the send windows of the open streams were increased."""


class GoAwayReceived(Http2Event):
    """The peer accepts no more streams, and has not processed those above `last_stream_id`."""

    __slots__ = ("debug_data", "error_code", "last_stream_id")

    def __init__(self, last_stream_id: int, error_code: int, debug_data: bytes) -> None:
        self.last_stream_id = last_stream_id
        self.error_code = error_code
        self.debug_data = debug_data


class PingAckReceived(Http2Event):
    """The peer answered PING."""

    __slots__ = ("payload",)

    def __init__(self, payload: bytes) -> None:
        self.payload = payload


class ConnectionFailed(Http2Event):
    """The peer violated the protocol. GOAWAY is in the buffer, and the connection is closed."""

    __slots__ = ("error_code", "is_abuse", "reason")

    def __init__(self, error_code: int, reason: str, is_abuse: bool = False) -> None:
        self.error_code = error_code
        self.reason = reason
        self.is_abuse = is_abuse
        """Whether the peer exceeded its abuse limits; see `DenialOfServiceError`."""


Events = list[Http2Event]
