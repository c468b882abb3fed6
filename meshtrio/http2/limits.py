"""Limits on what peers can make this side hold or do."""

from __future__ import annotations

from typing import Any

from meshtrio.http2 import frames
from meshtrio.util.record import FrozenRecord

UNLIMITED = 2**32 - 1
"""A size that is no limit: the largest that a SETTINGS parameter or a gRPC message can have."""
DEFAULT_MAX_MESSAGE_SIZE = 4 * 1024 * 1024
"""Default maximum size of a received gRPC message, in bytes, as in other gRPC implementations."""

_MAXIMUMS = {
    "stream_window": frames.MAX_WINDOW_SIZE,
    "connection_window": frames.MAX_WINDOW_SIZE,
    "max_frame_size": frames.MAX_MAX_FRAME_SIZE,
}
_MINIMUMS = {
    # A peer may use the default window and frame size of HTTP/2 until it has received our SETTINGS,
    # so smaller limits could not be enforced.
    "stream_window": frames.DEFAULT_INITIAL_WINDOW_SIZE,
    "connection_window": frames.DEFAULT_INITIAL_WINDOW_SIZE,
    "max_frame_size": frames.DEFAULT_MAX_FRAME_SIZE,
    "max_header_list_size": 1024,
    "absolute_max_header_list_size": 1024,
    "max_send_header_list_size": 1024,
    "max_message_size": 0,
    "max_send_message_size": 0,
    "control_rate": 0,
    "reset_rate": 0,
    "reset_grace": 0,
}
"""The least values of limits; that of others is 1."""


class Limits(FrozenRecord):
    """Limits of the connections of a server or client. Sizes are in bytes.

    `connection_memory`, `peer_memory` and `process_memory` bound what a server holds for its
    callers. Half of each is for data that was received and no handler has taken, the other half for
    requests that handlers process and replies that the client has not read, which count twice. A
    message larger than the stream's window is received once there is memory for all of it, one at a
    time if it is larger than that. Calls that exceed a limit fail with RESOURCE_EXHAUSTED. Clients
    hold what they have requested, and have no such limit.
    """

    max_connections: int = 4096
    """Maximum number of connections of a server, and at most 0.4 of its file descriptors (`ulimit
    -n`), whose soft limit plugins raise to the hard one. Further connections are rejected with
    GOAWAY, except the mesh's own. On a Unix socket 16 more are accepted, of processes of the
    server's own user or of root that have less than 4."""
    max_connections_per_peer: int = 1024
    """Maximum number of connections of one peer: on a Unix socket a process of the server's own
    user or of root, or another user with all processes; on TCP a client certificate, or a host if
    there is none."""
    max_concurrent_streams: int = 1000
    """Number of streams that a peer may have open on one connection."""
    stream_window: int = 256 * 1024
    """Number of unread bytes that a peer may have in flight on one stream."""
    connection_window: int = 4 * 1024 * 1024
    """Number of unread bytes that a peer may have in flight on one connection."""
    connection_memory: int = 128 * 1024 * 1024
    """Maximum memory that is held for one connection."""
    peer_memory: int = 256 * 1024 * 1024
    """Maximum memory that is held for all connections of one peer. A peer is the same as for
    `max_connections_per_peer`, but behind a gateway it is a client of the gateway. Also limits the
    active calls of a peer, which count 32 KiB each."""
    process_memory: int = 512 * 1024 * 1024
    """Maximum memory that is held for all peers of this process. While it is exceeded, calls of
    peers fail that have more than a sixteenth of it."""
    max_frame_size: int = 256 * 1024
    """Maximum size of a received frame. With HTTP/2's default of 16 KiB, a message of 1 MiB has 64
    frames, and splitting them takes longer than copying the message."""
    max_header_list_size: int = 32 * 1024
    """Size of a received header list (metadata included), counted as RFC 9113 §6.5.2 does and sent
    as SETTINGS_MAX_HEADER_LIST_SIZE. A call with a larger one fails with RESOURCE_EXHAUSTED."""
    absolute_max_header_list_size: int = 1024 * 1024
    """Size of a received header list, and of its encoded block, above which the connection is
    closed, because decoding it costs too much. No less than `max_header_list_size` is used."""
    max_send_header_list_size: int = 65_535
    """Size of a header list to send, unless the peer has set a lower limit. What is larger fails
    the call with RESOURCE_EXHAUSTED before it is sent. The default is that of Node.js, which does
    not announce it, and never answers a call that exceeds it."""
    max_message_size: int = DEFAULT_MAX_MESSAGE_SIZE
    """Maximum size of a received gRPC message, after decompression."""
    max_send_message_size: int = UNLIMITED
    """Maximum size of a sent gRPC message, before compression."""
    control_burst: int = 1000
    """Number of frames without content (PING, SETTINGS, PRIORITY, WINDOW_UPDATE, empty DATA, and
    unknown types) that a connection may send at once; DATA in either direction earns it more. All
    connections of one peer together may send ten times as many that were not earned."""
    control_rate: float = 100.0
    """Sustained rate, per second, at which `control_burst` refills."""
    reset_burst: int = 1000
    """Number of streams that a peer may open and reset at once, on all of its connections, before
    the connection is closed with ENHANCE_YOUR_CALM. New connections of a peer are refused for a
    second after one was closed in that way, and twice as long each time, up to a minute. Each
    stream that ends without a reset gives one back. A reset counts if it comes within `reset_grace`
    of the request and before the response has begun: in full if the call has no deadline, as a
    tenth if it has one. Streams reset for the client's own violations of HTTP/2 always count."""
    reset_rate: float = 200.0
    """Sustained rate, per second, at which `reset_burst` refills."""
    reset_grace: float = 0.01
    """Seconds after which a client may cancel a call at no cost: an attack by rapid resets does not
    wait, and a client that does is limited by `max_concurrent_streams`."""

    def __post_init__(self) -> None:
        for name, value in self._items():
            _check_range(name, value)


def _check_range(name: str, value: Any) -> None:
    """Raise ValueError if a limit has a value that it cannot have."""
    minimum, maximum = _MINIMUMS.get(name, 1), _MAXIMUMS.get(name)
    if not value >= minimum:  # NaN is no value either.
        raise ValueError(f"'{name}' must be >= {minimum}: {value}")
    if maximum is not None and not value <= maximum:
        raise ValueError(f"'{name}' must be <= {maximum}: {value}")
