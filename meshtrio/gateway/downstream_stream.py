"""The stream from the client: the request that is kept for a retry, and how a response is sent."""

from __future__ import annotations

from meshtrio.gateway.proxied_streams import MAX_SMALL_CHUNK, ProxiedStream
from meshtrio.grpc.header_builder import build_response_headers
from meshtrio.grpc.headers import Trailers
from meshtrio.http2.errors import ErrorCode
from meshtrio.rpc.connection import Connection
from meshtrio.rpc.peer_accounts import ConnectionAccount
from meshtrio.rpc.write_buffer import HIGH_WATER

_MAX_REPLAY_SIZE = 256 * 1024
"""Maximum bytes of a request that are buffered for a retry; a longer request is committed."""
MAX_UNREAD_SIZE = 8 * 1024 * 1024
"""Maximum bytes that wait for a client that does not read."""
DEFAULT_RESPONSE_HEADERS = build_response_headers(content_type=b"application/grpc")
"""Sent before a status without response headers of the plugin."""


class DownstreamStream(ProxiedStream):
    """The stream from the client, and what it holds for the call, charged to the client."""

    replay_buffer: list[bytes] | tuple[bytes, ...] | None = ()
    """Request data for a retry; None once the call is committed or over."""
    replay_size = 0
    """Bytes of the request so far, until the call is committed."""
    headers_sent = False
    """Whether response headers were sent, so that only trailers may follow."""
    received_charge = 0
    """Size of the buffered request, as charged, in bytes."""
    sending_charge = 0
    """Size of the buffered response, as charged, in bytes."""

    def __init__(self, connection: Connection, stream_id: int) -> None:
        # As the base class does, without another call for each proxied call.
        self.connection = connection
        self.id = stream_id
        self.account: ConnectionAccount | None = connection.account
        """The account of an open stream; None once it is closed."""
        if self.account is not None:
            self.account.peer_account.active_calls += 1

    # -- the request -------------------------------------------------------------------------

    def on_data(self, data: bytes, end_stream: bool) -> None:
        """Pass DATA of the request on; small DATA waits for more of the current read."""
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

    # -- the response ------------------------------------------------------------------------

    def send_response_headers(self, block: bytes) -> None:
        """Send response headers, unless the client has reset the stream."""
        connection = self.connection
        if connection.is_send_open(self.id):
            connection.send_headers(self.id, block)
            self.headers_sent = True

    def try_send_response(self, headers: bytes, data: bytes, trailers: bytes) -> bool:
        """Send a whole response; return False, with no effect, if it cannot be sent at once."""
        connection = self.connection
        return (
            not connection.closed
            and connection.write_buffer.size <= HIGH_WATER
            and connection.try_send_message(self.id, data, headers, trailers, False)
        )

    def queue_status(self, trailers: bytes) -> None:
        """Send the status after what is buffered for the client."""
        if not self.headers_sent:
            trailers = DEFAULT_RESPONSE_HEADERS.data + trailers
        self.write(b"", trailers)

    def close_if_unread(self) -> None:
        """Close the connection of a client that does not read what calls have queued for it.

        Messages stop earlier, by flow control: these are headers and trailers of many calls.
        """
        if self.connection.write_buffer.size > MAX_UNREAD_SIZE:
            self.connection.close("responses are not read", ErrorCode.ENHANCE_YOUR_CALM)

    # -- memory ------------------------------------------------------------------------------

    def charge_request(self, size: int) -> str:
        """Account for the buffered request; describe the budget it exceeds, "" for none.

        Small requests are not charged: every call costs as much.
        """
        size = size if size > MAX_SMALL_CHUNK else 0
        account, change = self.account, size - self.received_charge
        if account is None or not change:
            return ""
        self.received_charge = size
        account.add_received(change, 0)
        return account.exceeded_receive_budget() if change > 0 else ""

    def charge_response(self) -> str:
        """Account for the buffered response; describe the budget it exceeds, "" for none."""
        account, change = self.account, self.buffered_size - self.sending_charge
        if account is None or not change:
            return ""
        self.sending_charge = self.buffered_size
        account.add_working(change)
        return account.exceeded_work_budget() if change > 0 else ""

    def release_charges(self) -> None:
        """Release all charges: the stream is closed."""
        account = self.account
        if account is None:
            return
        self.account = None
        account.peer_account.active_calls -= 1
        if self.received_charge or self.sending_charge:
            # Without waiting for the garbage collector: an exception and its traceback are a cycle.
            self.discard_buffered()
            account.add_received(-self.received_charge, 0)
            account.add_working(-self.sending_charge)
            self.received_charge = self.sending_charge = 0
            account.peer_account.wake_waiters()
