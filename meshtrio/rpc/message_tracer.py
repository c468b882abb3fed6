"""The tracer of a stream's messages."""

from __future__ import annotations

from meshtrio.grpc.headers import ResponseHeaders


class MessageTracer:
    """Reports the messages of one stream.

    A tracer that wants these events sets itself as the stream's `message_tracer`, in
    `ServerTracer.start_call` or `AttemptTracer.endpoint_picked`. All methods are called in place
    and must not block.
    """

    __slots__ = ()

    def message_sent(self, message: bytes, wire_size: int) -> None:
        """Report a message that is about to be sent; `wire_size` is its size once compressed."""

    def message_received(self, message: bytes, wire_size: int) -> None:
        """Report a message that was received; `wire_size` is its size before decompression."""

    def half_closed(self) -> None:
        """Report that a client has ended its side of the call (END_STREAM)."""

    def half_close_received(self) -> None:
        """Report that a server has received the last message of the client."""

    def headers_received(self, headers: ResponseHeaders) -> None:
        """Report that a client has received response headers that are not Trailers-Only."""
