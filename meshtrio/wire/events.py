"""What the engine tells the layer above, in the order the bytes said it."""

from __future__ import annotations

import attrs

from meshtrio.wire.heads import RequestHead, ResponseHead, Trailers


@attrs.define
class RequestReceived:
    """Server side: a stream was opened by the peer."""

    stream_id: int
    head: RequestHead
    end_stream: bool


@attrs.define
class RequestTooLarge:
    """Server side: a stream was opened by a request whose header list is over the limit.

    The list was discarded; the stream is there to be answered, for which `is_grpc` tells how.
    """

    stream_id: int
    is_grpc: bool
    end_stream: bool
    reason: str


@attrs.define
class ResponseReceived:
    """Client side: the final response's head (informational ones are passed over)."""

    stream_id: int
    head: ResponseHead
    end_stream: bool


@attrs.define
class DataReceived:
    """DATA without its padding. `Connection.allow` gives the peer room for more."""

    stream_id: int
    data: bytes
    end_stream: bool


@attrs.define
class TrailersReceived:
    """The peer ended its side with trailers; None where they hold no gRPC status."""

    stream_id: int
    trailers: Trailers | None


@attrs.define
class StreamReset:
    """A stream ended before its time: by the peer, or by the engine for the peer's violation."""

    stream_id: int
    code: int
    by_peer: bool
    reason: str


@attrs.define
class WindowOpened:
    """More may be sent: on one stream, or on all of them for stream id 0."""

    stream_id: int


@attrs.define
class SettingsReceived:
    """The peer's settings were taken over and acknowledged."""

    windows_grew: bool = False
    """More may be sent on the streams that were open."""


@attrs.define
class GoAwayReceived:
    """The peer takes no new streams; those above `last_stream_id` it has not processed."""

    last_stream_id: int
    code: int
    debug: bytes


@attrs.define
class PingAcknowledged:
    payload: bytes


@attrs.define
class ConnectionFailed:
    """The peer broke the protocol; GOAWAY is queued, and nothing more is read from it."""

    code: int
    reason: str
    is_abuse: bool = False
    """Whether it made more work than its budgets allow; see `PeerAbuse`."""


Event = (
    RequestReceived
    | RequestTooLarge
    | ResponseReceived
    | DataReceived
    | TrailersReceived
    | StreamReset
    | WindowOpened
    | SettingsReceived
    | GoAwayReceived
    | PingAcknowledged
    | ConnectionFailed
)
