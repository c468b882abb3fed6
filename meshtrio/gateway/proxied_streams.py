"""The two streams of a call that is passed on: what comes on one goes out on the other, as it is.

Bytes are neither cut into messages nor copied. Each leg holds what its peer does not take just
now, and the other leg's peer may send no more than that leaves room for.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

import purerpc

from meshtrio.grpc.headers import ResponseHeaders, Trailers
from meshtrio.rpc.connection import Connection
from meshtrio.rpc.stream import Stream
from meshtrio.transport.transport import Buffer

if TYPE_CHECKING:
    from meshtrio.gateway.proxied_call import ProxiedCall


_MAX_SMALL_CHUNK = 4096
"""Bytes of a piece that more is joined to."""


class ProxiedStream(Stream):
    """A stream that sends what it is given without waiting, and keeps what cannot go out yet."""

    __slots__ = ("_buffer", "_pending_trailers", "_small_chunks", "buffered_size", "proxied_call")

    sends_synchronously = True
    _connection: Connection

    def __init__(self, connection: Connection, stream_id: int) -> None:
        super().__init__(connection, stream_id)
        self.proxied_call: ProxiedCall | None = None
        self.buffered_size = 0
        """Bytes that wait for the peer, or for the kernel."""
        self._buffer: deque[Buffer] | tuple[()] = ()
        self._small_chunks: list[bytes] = []
        """Little DATA that the read under way has brought: a peer that sends a byte at a time shall
        not make this side write a frame, and the other side read one, for each."""
        self._pending_trailers: bytes | None = None
        """Trailers that come after what is held, b"" for an end without."""

    @property
    def connection(self) -> Connection:
        return self._connection

    def write(self, data: Buffer, trailers: bytes | None = None) -> None:
        """Send DATA, and after it this side's end: trailers, or b"" for a bare one."""
        if not self._buffer:
            taken = self._try_send(data, trailers)
            if taken == len(data):
                return
            data = memoryview(data)[taken:]
        self.buffered_size += len(data)
        self._pending_trailers = trailers
        if not isinstance(self._buffer, deque):
            self._buffer = deque()
        elif self._buffer and len(self._buffer[-1]) < _MAX_SMALL_CHUNK:
            # A peer that sends a byte at a time shall not make an object of each.
            data = b"".join((self._buffer.pop(), data))
        self._buffer.append(data)

    def discard_buffered(self) -> None:
        """Forget what waits for the peer."""
        self._buffer, self.buffered_size = (), 0

    def discard_received(self) -> None:
        super().discard_received()
        self.discard_buffered()

    def _flush_small_chunks(self) -> None:
        if self._small_chunks:
            data, self._small_chunks = b"".join(self._small_chunks), []
            self._forward_data(data)

    def _forward_data(self, data: bytes) -> None:
        """Send DATA that has come on the other leg."""
        raise NotImplementedError

    def _try_send(self, data: Buffer, trailers: bytes | None) -> int:
        """Give how much went out; the end goes with the last of it."""
        connection = self._connection
        if connection.closed or not connection.engine.is_send_open(self.id):
            return len(data)  # Nobody wants it any more.
        # An end is small, and not held back for the kernel's sake alone.
        if data and connection.write_buffer.above_high_water:
            connection.wake_on_writable(self)
            return 0
        taken = 0
        if data or trailers == b"":
            taken = connection.engine.send_data(self.id, data, end_stream=trailers == b"")
        if taken < len(data):
            connection.wake_on_writable(self)
        elif trailers:
            connection.engine.send_headers(self.id, trailers, end_stream=True)
        return taken

    def on_writable(self) -> None:
        """The peer takes more, or the kernel does."""
        if not self._buffer:
            return
        while self._buffer:
            data = self._buffer[0]
            taken = self._try_send(data, self._pending_trailers if len(self._buffer) == 1 else None)
            self.buffered_size -= taken
            if taken < len(data):
                self._buffer[0] = memoryview(data)[taken:]
                break
            self._buffer.popleft()
        self._connection.flush()
        if self.proxied_call is not None:
            self.proxied_call.on_writable(self)

    def release_window(self) -> bool:
        """Let the peer send as much as there is room for on the other leg."""
        self._flush_small_chunks()
        backlog = 0 if self.proxied_call is None else self.proxied_call.peer_buffered_size(self)
        room = max(self._connection.limits.stream_window - backlog, 0)
        return self._connection.engine.set_receive_window(self.id, room)


class DownstreamStream(ProxiedStream):
    """The call as it came."""

    __slots__ = ()

    def on_data(self, data: bytes, end_stream: bool) -> None:
        if len(data) < _MAX_SMALL_CHUNK and not end_stream:
            self._small_chunks.append(data)
            return
        self.remote_closed = end_stream
        self._flush_small_chunks()
        if self.proxied_call is not None:
            self.proxied_call.on_request_data(data, end_stream=end_stream)

    def _forward_data(self, data: bytes) -> None:
        if self.proxied_call is not None:
            self.proxied_call.on_request_data(data, end_stream=False)

    def charge_response(self) -> str:
        """Count bytes of the reply that are held; gives the budget they use up, "" for none."""
        ledger, change = self.account, self.buffered_size - self.sending_charge
        if ledger is None or not change:
            return ""
        self.sending_charge = self.buffered_size
        ledger.add_working(change)
        return ledger.exceeded_work_budget() if change > 0 else ""

    def on_end_stream(self, trailers: Trailers | None) -> None:
        """A request's trailers mean nothing to gRPC."""
        self.on_data(b"", end_stream=True)

    @property
    def has_started(self) -> bool:
        """Whether a plugin has the call, or has had it."""
        return self.proxied_call is None or self.proxied_call.has_started

    def refuse(self) -> None:
        """Have the caller make the call again elsewhere."""
        if self.proxied_call is not None:
            self.proxied_call.refuse()

    def on_shutdown(self) -> None:
        """A call that a plugin has may end by itself."""

    def on_shutdown_timeout(self) -> None:
        if self.proxied_call is not None:
            self.proxied_call.abort()

    def fail(self, error: purerpc.RpcFailedError) -> None:
        """The caller has cancelled, or is gone."""
        if self.error is None:
            self.error = error
            if self.cancel_on_error is not None:
                self.cancel_on_error.cancel()
            if self.proxied_call is not None:
                self.proxied_call.on_downstream_reset()


class UpstreamStream(ProxiedStream):
    """The same call as it goes on to a plugin."""

    __slots__ = ()

    def on_headers(self, headers: ResponseHeaders) -> None:
        if self.proxied_call is not None:
            self.proxied_call.on_response_headers(headers)

    def on_data(self, data: bytes, end_stream: bool) -> None:
        if len(data) < _MAX_SMALL_CHUNK:
            self._small_chunks.append(data)
        else:
            self._flush_small_chunks()
            self._forward_data(data)
        if end_stream:
            self.on_end_stream(None)

    def _forward_data(self, data: bytes) -> None:
        if self.proxied_call is not None:
            self.proxied_call.on_response_data(data)

    def on_end_stream(self, trailers: Trailers | None) -> None:
        self._flush_small_chunks()
        self.remote_closed, self.trailers = True, trailers
        if self.proxied_call is not None:
            self.proxied_call.on_response_end(trailers)

    def fail(self, error: purerpc.RpcFailedError) -> None:
        """The plugin has reset the call, or its connection is lost."""
        self._flush_small_chunks()
        if self.error is None and not self.remote_closed:
            self.error = error
            if self.proxied_call is not None:
                self.proxied_call.on_upstream_reset(error)
