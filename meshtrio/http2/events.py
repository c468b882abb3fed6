"""What the engine tells the layer above, in the order the bytes said it."""

from __future__ import annotations

from typing import Generic, TypeVar

import attrs

H = TypeVar("H")


@attrs.define
class RequestReceived(Generic[H]):
    """Server side: a stream was opened by the peer."""

    stream_id: int
    headers: H
    end_stream: bool


@attrs.define
class RequestHeadersTooLarge:
    """Server side: a stream was opened by a request whose header list is over the limit.

    The list was discarded; the stream is there to be answered, for which `is_grpc` tells how.
    """

    stream_id: int
    content_type: bytes
    end_stream: bool
    reason: str


@attrs.define
class ResponseReceived(Generic[H]):
    """Client side: the final response's head (informational ones are passed over)."""

    stream_id: int
    headers: H
    end_stream: bool


@attrs.define
class DataReceived:
    """DATA without its padding. `H2Connection.allow` gives the peer room for more."""

    stream_id: int
    data: bytes
    end_stream: bool


@attrs.define
class TrailersReceived(Generic[H]):
    """The peer ended its side with trailers; None where they hold no gRPC status."""

    stream_id: int
    trailers: H


@attrs.define
class StreamReset:
    """A stream ended before its time: by the peer, or by the engine for the peer's violation."""

    stream_id: int
    error_code: int
    remote_reset: bool
    reason: str


@attrs.define
class WindowUpdated:
    """More may be sent: on one stream, or on all of them for stream id 0."""

    stream_id: int


@attrs.define
class SettingsReceived:
    """The peer's settings were taken over and acknowledged."""

    windows_increased: bool = False
    """More may be sent on the streams that were open."""


@attrs.define
class GoAwayReceived:
    """The peer takes no new streams; those above `last_stream_id` it has not processed."""

    last_stream_id: int
    error_code: int
    debug_data: bytes


@attrs.define
class PingAckReceived:
    payload: bytes


@attrs.define
class ConnectionFailed:
    """The peer broke the protocol; GOAWAY is queued, and nothing more is read from it."""

    error_code: int
    reason: str
    is_abuse: bool = False
    """Whether it made more work than its budgets allow; see `DenialOfServiceError`."""


Http2Event = (
    RequestReceived  # type: ignore[type-arg]  # classes, for isinstance
    | RequestHeadersTooLarge
    | ResponseReceived  # type: ignore[type-arg]
    | DataReceived
    | TrailersReceived  # type: ignore[type-arg]
    | StreamReset
    | WindowUpdated
    | SettingsReceived
    | GoAwayReceived
    | PingAckReceived
    | ConnectionFailed
)
