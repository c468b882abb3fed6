"""A stream of a proxied call: what comes on one goes out on the other, unparsed.

Data is neither split into messages nor copied. Each stream buffers what its peer does not take at
once, and the receive window of the other stream shrinks by that, so that a buffer never holds more
than one window.
"""

from __future__ import annotations

from collections import deque

import purerpc

from meshtrio.grpc.headers import ResponseHeaders, Trailers
from meshtrio.http2.errors import LocalProtocolError
from meshtrio.rpc.connected_stream import ConnectedStream
from meshtrio.rpc.connection import Connection
from meshtrio.rpc.write_buffer import HIGH_WATER
from meshtrio.transport.transport import Buffer

MAX_SMALL_CHUNK = 4096
"""Bytes below which DATA is joined with what follows it: single bytes must not cost an object
each."""


class ProxiedStream(ConnectedStream):
    """A stream that writes without waiting, and buffers what cannot be sent yet.

    It is not a `Stream`, as it has no messages and no task. The defaults of attributes are on the
    class, because a usual call changes few of them.
    """

    sends_synchronously = True
    is_awaiting_end_stream = False
    incomplete_since: float | None = None
    """None, as a proxied call may be idle for any time."""
    remote_closed = False
    headers: ResponseHeaders | None = None
    trailers: Trailers | None = None
    owner: object = None
    error: purerpc.RpcFailedError | None = None
    """The error that ended the stream early."""
    buffered_size = 0
    """Number of bytes that wait for flow control or for the socket."""
    _buffer: deque[Buffer] | tuple[()] = ()
    _small_chunks: list[bytes] | tuple[()] = ()
    """Small DATA of the current read, which costs one frame together."""
    _pending_trailers: bytes | None = None
    """Trailers to send after the buffer, b"" for END_STREAM alone; None before the end."""

    def __init__(self, connection: Connection, stream_id: int) -> None:
        self.connection = connection
        self.id = stream_id

    def write(self, data: Buffer, trailers: bytes | None = None) -> None:
        """Send DATA, and END_STREAM after it unless `trailers` is None; b"" is for no trailers."""
        if not self._buffer:
            sent = self._try_send(data, trailers)
            if sent == len(data):
                return
            data = memoryview(data)[sent:]
        self.buffered_size += len(data)
        self._pending_trailers = trailers
        if not isinstance(self._buffer, deque):
            self._buffer = deque()
        elif self._buffer and len(self._buffer[-1]) < MAX_SMALL_CHUNK:
            data = b"".join((self._buffer.pop(), data))
        self._buffer.append(data)

    def discard_buffered(self) -> None:
        """Discard what waits for the peer."""
        self._buffer, self.buffered_size = (), 0

    def _keep_small_chunk(self, data: bytes) -> None:
        """Keep DATA until `_flush_small_chunks`, which is called after the read at the latest."""
        if self._small_chunks:
            self._small_chunks.append(data)
        else:
            self._small_chunks = [data]

    def _flush_small_chunks(self) -> None:
        if self._small_chunks:
            data, self._small_chunks = b"".join(self._small_chunks), ()
            self._forward_data(data)

    def _forward_data(self, data: bytes, *, end_stream: bool = False) -> None:
        """Pass DATA that was received to the other stream."""
        raise NotImplementedError

    def _on_buffer_taken(self) -> None:
        """Handle that the peer has taken data that was buffered for it."""
        raise NotImplementedError

    def _get_unsent_size(self) -> int:
        """Return the bytes that came on this stream and are buffered for the other."""
        raise NotImplementedError

    def _try_send(self, data: Buffer, trailers: bytes | None) -> int:
        """Return the number of bytes sent; the end goes out with the last of them."""
        connection, size = self.connection, len(data)
        if connection.closed:
            return size  # The peer does not want it any more.
        # Trailers are small: a full socket buffer alone does not hold them back.
        if size and connection.write_buffer.size > HIGH_WATER and connection.is_send_open(self.id):
            connection.window_waiters.wait_until_writable(self)
            return 0
        sent = 0
        try:
            if size or trailers == b"":
                sent = connection.send_data(self.id, data, end_stream=trailers == b"")
            if sent < size:
                connection.window_waiters.wait_until_writable(self)
            elif trailers:
                connection.send_headers(self.id, trailers, end_stream=True)
        except LocalProtocolError:
            return size  # The peer has reset the stream; the error is cheaper than asking first.
        return sent

    def on_writable(self) -> None:
        """Send what is buffered, as flow control or the socket has room again."""
        if not self._buffer:
            return
        while self._buffer:
            data = self._buffer[0]
            sent = self._try_send(data, self._pending_trailers if len(self._buffer) == 1 else None)
            self.buffered_size -= sent
            if sent < len(data):
                self._buffer[0] = memoryview(data)[sent:]
                break
            self._buffer.popleft()
        self.connection.flush()
        self._on_buffer_taken()

    def release_window(self) -> bool:
        """Set the receive window to what the other stream has room for.

        Returns whether there is something to flush.
        """
        self._flush_small_chunks()
        room = max(self.connection.limits.stream_window - self._get_unsent_size(), 0)
        return self.connection.set_receive_window(self.id, room)

    # -- what only one of the two sides does -------------------------------------------------

    @property
    def path(self) -> str:
        """The `:path` of the call, on the stream from the client."""
        return ""

    @property
    def has_started(self) -> bool:
        """Whether the call may have been processed, so that it cannot be refused."""
        return True

    def on_headers(self, headers: ResponseHeaders) -> None:
        """Handle response headers."""

    def refuse(self) -> None:
        """Refuse a call that has not started."""

    def on_shutdown(self) -> None:
        """Do nothing: the call may end by itself until the shutdown timeout."""

    def on_shutdown_timeout(self) -> None:
        """End a call that has not ended within the drain timeout of the mesh."""

    def on_age_timeout(self, error: purerpc.RpcFailedError) -> None:
        """End a call whose connection from the client is too old."""

    def release_charges(self) -> None:
        """Release the charges of a stream that is closed."""
