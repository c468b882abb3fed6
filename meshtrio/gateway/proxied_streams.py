"""The two streams of a proxied call: what comes on one goes out on the other, unparsed.

Data is neither split into messages nor copied. Each stream buffers what its peer does not take at
once, and the receive window of the other stream shrinks by that, so that a buffer never holds more
than one window.
"""

from __future__ import annotations

from collections import deque
from typing import Protocol

import purerpc

from meshtrio.grpc.headers import ResponseHeaders, Trailers
from meshtrio.rpc.connection import Connection
from meshtrio.rpc.stream import Stream
from meshtrio.transport.transport import Buffer

_MAX_SMALL_CHUNK = 4096
"""Bytes below which DATA is joined with what follows it: single bytes must not cost an object
each."""
_MAX_REPLAY_SIZE = 256 * 1024
"""Maximum bytes of a request that are buffered for a retry; a longer request is committed."""


class ProxiedStreamListener(Protocol):
    """What the streams of a proxied call report to the call."""

    @property
    def has_started(self) -> bool:
        """Whether the call was sent to a plugin."""

    def on_request_data(self, data: bytes, *, end_stream: bool) -> None:
        """Handle DATA of the client."""

    def on_downstream_reset(self) -> None:
        """Handle that the client has cancelled the call, or is gone."""

    def refuse(self) -> None:
        """End the call with REFUSED_STREAM: no plugin has it."""

    def abort(self) -> None:
        """End the call with a status because the mesh stops."""

    def on_response_headers(self, headers: ResponseHeaders) -> None:
        """Handle response headers of the plugin."""

    def on_response_data(self, data: bytes) -> None:
        """Handle DATA of the plugin."""

    def on_response_end(self, trailers: Trailers | None) -> None:
        """Handle the end of the response."""

    def on_upstream_reset(self, error: purerpc.RpcFailedError) -> None:
        """Handle that the plugin has reset the call, or that its connection is lost."""

    def on_writable(self, stream: ProxiedStream) -> None:
        """Handle that a stream's peer has taken data that was buffered for it."""

    def peer_buffered_size(self, stream: ProxiedStream) -> int:
        """Return the bytes that came on a stream and are buffered for the other."""


class ProxiedStream(Stream):
    """A stream that writes without waiting, and buffers what cannot be sent yet."""

    __slots__ = (
        "_buffer",
        "_pending_trailers",
        "_small_chunks",
        "buffered_size",
        "connection",
        "listener",
    )

    sends_synchronously = True

    def __init__(self, connection: Connection, stream_id: int) -> None:
        super().__init__(connection, stream_id)
        self.connection = connection
        self.listener: ProxiedStreamListener | None = None
        """The call that the stream belongs to; None once the call is over."""
        self.buffered_size = 0
        """Number of bytes that wait for flow control or for the socket."""
        self._buffer: deque[Buffer] | tuple[()] = ()
        self._small_chunks: list[bytes] = []
        """Small DATA of the current read, which costs one frame together."""
        self._pending_trailers: bytes | None = None
        """Trailers to send after the buffer, b"" for END_STREAM alone; None before the end."""

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
        elif self._buffer and len(self._buffer[-1]) < _MAX_SMALL_CHUNK:
            data = b"".join((self._buffer.pop(), data))
        self._buffer.append(data)

    def discard_buffered(self) -> None:
        """Discard what waits for the peer."""
        self._buffer, self.buffered_size = (), 0

    def discard_received(self) -> None:
        super().discard_received()
        self.discard_buffered()

    def _flush_small_chunks(self) -> None:
        if self._small_chunks:
            data, self._small_chunks = b"".join(self._small_chunks), []
            self._forward_data(data)

    def _forward_data(self, data: bytes) -> None:
        """Pass DATA that was received to the call."""
        raise NotImplementedError

    def _try_send(self, data: Buffer, trailers: bytes | None) -> int:
        """Return the number of bytes sent; the end goes out with the last of them."""
        connection = self.connection
        if connection.closed or not connection.is_send_open(self.id):
            return len(data)  # The peer does not want it any more.
        # Trailers are small: a full socket buffer alone does not hold them back.
        if data and connection.write_buffer.above_high_water:
            connection.window_waiters.wait_until_writable(self)
            return 0
        sent = 0
        if data or trailers == b"":
            sent = connection.send_data(self.id, data, end_stream=trailers == b"")
        if sent < len(data):
            connection.window_waiters.wait_until_writable(self)
        elif trailers:
            connection.send_headers(self.id, trailers, end_stream=True)
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
        if self.listener is not None:
            self.listener.on_writable(self)

    def release_window(self) -> bool:
        """Set the receive window to what the other stream has room for.

        Returns whether there is something to flush.
        """
        self._flush_small_chunks()
        buffered = 0 if self.listener is None else self.listener.peer_buffered_size(self)
        room = max(self.connection.limits.stream_window - buffered, 0)
        return self.connection.set_receive_window(self.id, room)


class DownstreamStream(ProxiedStream):
    """The stream from the client."""

    __slots__ = ("replay_buffer", "replay_size")

    def __init__(self, connection: Connection, stream_id: int) -> None:
        super().__init__(connection, stream_id)
        self.replay_buffer: list[bytes] | None = []
        """Request data for a retry; None once the call is committed or over."""
        self.replay_size = 0
        """Bytes of the request so far, until the call is committed."""

    def buffer_for_replay(self, data: bytes) -> bool:
        """Buffer DATA of an uncommitted call; return whether it is too much for a retry."""
        buffer = self.replay_buffer
        if buffer is None:
            return False
        self.replay_size += len(data)
        if buffer and len(buffer[-1]) < _MAX_SMALL_CHUNK:
            buffer[-1] += data
        else:
            buffer.append(data)
        return self.replay_size > _MAX_REPLAY_SIZE

    def charge_request(self, unsent: int) -> str:
        """Account for the buffered request, `unsent` bytes of which are at the upstream stream.

        Describes the memory budget that it exceeds, "" for none.
        """
        size = unsent if self.replay_buffer is None else unsent + self.replay_size
        return self.charge_received(size if size > _MAX_SMALL_CHUNK else 0)

    def on_data(self, data: bytes, end_stream: bool) -> None:
        if len(data) < _MAX_SMALL_CHUNK and not end_stream:
            self._small_chunks.append(data)
            return
        self.remote_closed = end_stream
        self._flush_small_chunks()
        if self.listener is not None:
            self.listener.on_request_data(data, end_stream=end_stream)

    def _forward_data(self, data: bytes) -> None:
        if self.listener is not None:
            self.listener.on_request_data(data, end_stream=False)

    def charge_response(self) -> str:
        """Account for the buffered response; describe the budget it exceeds, "" for none."""
        account, change = self.account, self.buffered_size - self.sending_charge
        if account is None or not change:
            return ""
        self.sending_charge = self.buffered_size
        account.add_working(change)
        return account.exceeded_work_budget() if change > 0 else ""

    def on_end_stream(self, trailers: Trailers | None) -> None:
        """End the request; gRPC has no request trailers."""
        self.on_data(b"", end_stream=True)

    @property
    def has_started(self) -> bool:
        """Whether the call was sent to a plugin."""
        return self.listener is None or self.listener.has_started

    def refuse(self) -> None:
        """Refuse the call, for the client to make it elsewhere."""
        if self.listener is not None:
            self.listener.refuse()

    def on_shutdown(self) -> None:
        """Do nothing: the call may end by itself until the shutdown timeout."""

    def on_shutdown_timeout(self) -> None:
        """End the call."""
        if self.listener is not None:
            self.listener.abort()

    def fail(self, error: purerpc.RpcFailedError) -> None:
        """End the call: the client has cancelled it, or is gone."""
        if self.error is None:
            self.error = error
            if self.cancel_on_error is not None:
                self.cancel_on_error.cancel()
            if self.listener is not None:
                self.listener.on_downstream_reset()


class UpstreamStream(ProxiedStream):
    """The stream to the plugin."""

    __slots__ = ()

    def on_headers(self, headers: ResponseHeaders) -> None:
        if self.listener is not None:
            self.listener.on_response_headers(headers)

    def on_data(self, data: bytes, end_stream: bool) -> None:
        if len(data) < _MAX_SMALL_CHUNK:
            self._small_chunks.append(data)
        else:
            self._flush_small_chunks()
            self._forward_data(data)
        if end_stream:
            self.on_end_stream(None)

    def _forward_data(self, data: bytes) -> None:
        if self.listener is not None:
            self.listener.on_response_data(data)

    def on_end_stream(self, trailers: Trailers | None) -> None:
        self._flush_small_chunks()
        self.remote_closed, self.trailers = True, trailers
        if self.listener is not None:
            self.listener.on_response_end(trailers)

    def fail(self, error: purerpc.RpcFailedError) -> None:
        """Report that the plugin has reset the call, or that its connection is lost."""
        self._flush_small_chunks()
        if self.error is None and not self.remote_closed:
            self.error = error
            if self.listener is not None:
                self.listener.on_upstream_reset(error)
