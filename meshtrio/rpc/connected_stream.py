"""What a connection knows of the streams on it."""

from __future__ import annotations

from typing import Protocol

import purerpc

from meshtrio.grpc.headers import ResponseHeaders, Trailers


class ConnectedStream(Protocol):
    """A stream of a connection: one of a call, or one side of a proxied call.

    The methods are called by the connection, and must not block.
    """

    id: int
    sends_synchronously: bool
    """Whether `on_writable` sends by itself, instead of waking a task that sends."""
    remote_closed: bool
    """Whether the peer has ended its side (END_STREAM)."""
    headers: ResponseHeaders | None
    """The response headers, on a client."""
    trailers: Trailers | None
    """The trailers of the response, on a client."""
    owner: object
    """The channel of the call, on a client."""
    is_awaiting_end_stream: bool
    """Whether a server has the only request of a call and waits for the client's END_STREAM."""

    @property
    def path(self) -> str:
        """The `:path` of the call, on a server."""

    @property
    def incomplete_since(self) -> float | None:
        """The time since which a message or END_STREAM is awaited; None if neither is."""

    @property
    def has_started(self) -> bool:
        """Whether the call may have been processed, so that it cannot be refused, on a server."""

    def on_headers(self, headers: ResponseHeaders) -> None:
        """Handle response headers, on a client."""

    def on_data(self, data: bytes, end_stream: bool) -> None:
        """Handle DATA."""

    def open_buffer(self, max_size: int) -> memoryview | None:
        """Return memory to receive the next DATA into; None if there is none to be used."""
        return None

    def on_end_stream(self, trailers: Trailers | None) -> None:
        """Handle the end of the peer's side; `trailers` is None if it has sent none."""

    def on_writable(self) -> None:
        """Send what waits for flow control or for the socket."""

    def release_window(self) -> bool:
        """Open the receive window for what may be received; return whether a flush is due."""

    def fail(self, error: purerpc.RpcFailedError) -> None:
        """End the stream early: the peer has reset it, or the connection is lost."""

    def refuse(self) -> None:
        """Refuse a call that has not started, so that its client may retry it, on a server."""

    def on_shutdown(self) -> None:
        """Handle that the server shuts down."""

    def on_shutdown_timeout(self) -> None:
        """End the call because the grace period of the shutdown is over."""

    def on_age_timeout(self, error: purerpc.RpcFailedError) -> None:
        """End the call with an error because its connection is too old, on a server."""

    def release_charges(self) -> None:
        """Release the charges of a stream that is closed, on a server."""
