"""Events that `H2Connection.receive_data` returns, in the order of the received frames.

The type of parsed headers is that of the connection's `HeaderParsers`.
"""

from __future__ import annotations

from typing import Generic, TypeVar

import attrs

H = TypeVar("H")


@attrs.define
class Http2Event:
    """Base of the events."""


@attrs.define
class RequestReceived(Http2Event, Generic[H]):
    """The client opened a stream."""

    stream_id: int
    headers: H
    end_stream: bool


@attrs.define
class RequestHeadersTooLarge(Http2Event):
    """The client opened a stream with a header list that exceeds the limit.

    The list was discarded. The stream is open, and should be answered.
    """

    stream_id: int
    content_type: bytes
    """Value of content-type, by which the caller knows how to answer."""
    end_stream: bool
    reason: str


@attrs.define
class ResponseReceived(Http2Event, Generic[H]):
    """The server sent the headers of the final response; informational ones (1xx) have no event."""

    stream_id: int
    headers: H
    end_stream: bool


@attrs.define
class DataReceived(Http2Event):
    """The peer sent DATA.

    The stream's receive window stays reduced until `H2Connection.set_receive_window`.
    """

    stream_id: int
    data: bytes
    end_stream: bool


@attrs.define
class TrailersReceived(Http2Event, Generic[H]):
    """The peer ended its half of a stream with trailers."""

    stream_id: int
    trailers: H


@attrs.define
class StreamReset(Http2Event):
    """A stream was reset: by the peer, or by the engine after a violation by the peer."""

    stream_id: int
    error_code: int
    remote_reset: bool
    """Whether the peer reset it."""
    reason: str


@attrs.define
class WindowUpdated(Http2Event):
    """The send window of a stream was increased, or that of the connection for stream id 0."""

    stream_id: int


@attrs.define
class SettingsReceived(Http2Event):
    """The settings of the peer were applied and acknowledged."""

    windows_increased: bool = False
    """Whether the send windows of the open streams were increased."""


@attrs.define
class GoAwayReceived(Http2Event):
    """The peer accepts no more streams, and has not processed those above `last_stream_id`."""

    last_stream_id: int
    error_code: int
    debug_data: bytes


@attrs.define
class PingAckReceived(Http2Event):
    """The peer answered PING."""

    payload: bytes


@attrs.define
class ConnectionFailed(Http2Event):
    """The peer violated the protocol. GOAWAY is in the buffer, and the connection is closed."""

    error_code: int
    reason: str
    is_abuse: bool = False
    """Whether the peer exceeded its abuse limits; see `DenialOfServiceError`."""


Events = list[Http2Event]
