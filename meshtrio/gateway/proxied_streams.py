"""The two streams of a proxied call: what comes on one goes out on the other, unparsed.

Data is neither split into messages nor copied. Each stream buffers what its peer does not take at
once, and the receive window of the other stream shrinks by that, so that a buffer never holds more
than one window.
"""

from __future__ import annotations

from collections import deque

import attrs

from meshtrio.grpc.headers import Trailers
from meshtrio.http2.errors import LocalProtocolError
from meshtrio.rpc.connection import Connection
from meshtrio.rpc.stream import Stream
from meshtrio.rpc.write_buffer import HIGH_WATER
from meshtrio.transport.transport import Buffer

MAX_SMALL_CHUNK = 4096
"""Bytes below which DATA is joined with what follows it: single bytes must not cost an object
each."""
_MAX_REPLAY_SIZE = 256 * 1024
"""Maximum bytes of a request that are buffered for a retry; a longer request is committed."""


@attrs.define(eq=False, repr=False, weakref_slot=False)
class ProxiedStream(Stream):
    """A stream that writes without waiting, and buffers what cannot be sent yet."""

    sends_synchronously = True

    connection: Connection = attrs.field(init=False)
    buffered_size: int = 0
    """Number of bytes that wait for flow control or for the socket."""
    _buffer: deque[Buffer] | tuple[()] = ()
    _small_chunks: list[bytes] | tuple[()] = ()
    """Small DATA of the current read, which costs one frame together."""
    _pending_trailers: bytes | None = None
    """Trailers to send after the buffer, b"" for END_STREAM alone; None before the end."""

    def __attrs_post_init__(self) -> None:
        super().__attrs_post_init__()
        assert isinstance(self._connection, Connection)
        self.connection = self._connection

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

    def discard_received(self) -> None:
        super().discard_received()
        self.discard_buffered()

    def _keep_small_chunk(self, data: bytes) -> None:
        """Keep DATA until `_flush_small_chunks`, which is called after the read at the latest."""
        if isinstance(self._small_chunks, list):
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


@attrs.define(eq=False, repr=False, weakref_slot=False)
class DownstreamStream(ProxiedStream):
    """The stream from the client, with what it holds for the call."""

    replay_buffer: list[bytes] | tuple[()] | None = ()
    """Request data for a retry; None once the call is committed or over."""
    replay_size: int = 0
    """Bytes of the request so far, until the call is committed."""

    def on_data(self, data: bytes, end_stream: bool) -> None:
        if not end_stream and len(data) < MAX_SMALL_CHUNK:
            self._keep_small_chunk(data)
            return
        self.remote_closed = end_stream
        if self._small_chunks:
            self._flush_small_chunks()
        self._forward_data(data, end_stream=end_stream)

    def on_end_stream(self, trailers: Trailers | None) -> None:
        """End the request; gRPC has no request trailers."""
        self.on_data(b"", end_stream=True)

    def on_shutdown(self) -> None:
        """Do nothing: the call may end by itself until the shutdown timeout."""

    def buffer_for_replay(self, data: bytes) -> bool:
        """Buffer DATA of an uncommitted call; return whether it is too much for a retry."""
        buffer = self.replay_buffer
        if buffer is None:
            return False
        self.replay_size += len(data)
        if not isinstance(buffer, list):
            self.replay_buffer = [data]
        elif buffer and len(buffer[-1]) < MAX_SMALL_CHUNK:
            buffer[-1] += data
        else:
            buffer.append(data)
        return self.replay_size > _MAX_REPLAY_SIZE

    def charge_response(self) -> str:
        """Account for the buffered response; describe the budget it exceeds, "" for none."""
        account, change = self.account, self.buffered_size - self.sending_charge
        if account is None or not change:
            return ""
        self.sending_charge = self.buffered_size
        account.add_working(change)
        return account.exceeded_work_budget() if change > 0 else ""
