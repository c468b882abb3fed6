"""Flow control windows, RFC 9113 §5.2 and §6.9.

The connection's receive window is restored as DATA arrives, so that one stream which is not read
cannot stop the others. A stream's receive window is restored by its reader
(`H2Connection.set_receive_window`), so that a stream which is not read stops its own sender.
"""

from __future__ import annotations

from collections.abc import Iterable

from meshtrio.http2.errors import ErrorCode, RemoteProtocolError, StreamError
from meshtrio.http2.frames import DEFAULT_INITIAL_WINDOW_SIZE, MAX_WINDOW_SIZE
from meshtrio.http2.stream import H2Stream


class ConnectionWindows:
    """The two flow control windows of a connection, in bytes."""

    __slots__ = ("_full_receive", "receive", "send")

    def __init__(self, receive: int) -> None:
        """Start with `receive` bytes that the peer may send."""
        self.send = DEFAULT_INITIAL_WINDOW_SIZE
        """Number of bytes of DATA that may be sent."""
        self.receive = receive
        """Number of bytes of DATA that the peer may send."""
        self._full_receive = receive

    def consume_received(self, size: int) -> int:
        """Count received DATA of `size` bytes.

        Returns:
            The increment for WINDOW_UPDATE, by which the window was restored; 0 for none. That is
            due once half of the window is used.

        Raises:
            RemoteProtocolError: The peer has exceeded the window.
        """
        self.receive -= size
        if self.receive < 0:
            raise RemoteProtocolError(
                ErrorCode.FLOW_CONTROL_ERROR, "more DATA than the connection's window"
            )
        if self.receive * 2 > self._full_receive:
            return 0
        increment = self._full_receive - self.receive
        self.receive = self._full_receive
        return increment

    def increase_send(self, increment: int) -> None:
        """Apply WINDOW_UPDATE for the connection. Raises RemoteProtocolError."""
        if not increment:
            raise RemoteProtocolError(ErrorCode.PROTOCOL_ERROR, "WINDOW_UPDATE of zero")
        self.send += increment
        if self.send > MAX_WINDOW_SIZE:
            raise RemoteProtocolError(ErrorCode.FLOW_CONTROL_ERROR, "the window overflows")


def increase_stream_send_window(stream: H2Stream, increment: int) -> None:
    """Apply WINDOW_UPDATE for a stream. Raises StreamError."""
    if not increment:
        raise StreamError(stream.id, ErrorCode.PROTOCOL_ERROR, "WINDOW_UPDATE of zero")
    stream.send_window += increment
    if stream.send_window > MAX_WINDOW_SIZE:
        raise StreamError(stream.id, ErrorCode.FLOW_CONTROL_ERROR, "the stream's window overflows")


def change_initial_send_window(streams: Iterable[H2Stream], change: int) -> None:
    """Change the send window of each stream, below zero if need be (RFC 9113 §6.9.2).

    Raises RemoteProtocolError.
    """
    for stream in streams:
        stream.send_window += change
        if stream.send_window > MAX_WINDOW_SIZE:
            raise RemoteProtocolError(ErrorCode.FLOW_CONTROL_ERROR, "a stream's window overflows")


def consume_content_length(stream: H2Stream, size: int, *, end_stream: bool) -> None:
    """Compare received DATA with content-length, if there is one (RFC 9113 §8.1.1).

    Raises StreamError.
    """
    if stream.remaining_content_length is None:
        return
    stream.remaining_content_length -= size
    if stream.remaining_content_length < 0 or (end_stream and stream.remaining_content_length):
        raise StreamError(
            stream.id, ErrorCode.PROTOCOL_ERROR, "content-length differs from the DATA sent"
        )
