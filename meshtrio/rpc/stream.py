"""One stream of a connection: the messages of a call in both directions, on either side.

A call receives and sends messages, its connection reports what the peer does (`on_...`). A stream
knows its connection only as a `ConnectionIO`, and must not outlive it.
"""

from __future__ import annotations

import purerpc
import trio

from meshtrio.grpc.framing import (
    ENCODINGS,
    MIN_SEPARATE_PREFIX_SIZE,
    compress,
    pack_message_prefix,
    parse_single_message,
)
from meshtrio.grpc.headers import ResponseHeaders, Trailers
from meshtrio.http2.errors import ErrorCode
from meshtrio.rpc.fairness import WAKE_COST
from meshtrio.rpc.receive_buffer import MIN_CHARGED_SIZE
from meshtrio.rpc.receive_stream import ReceiveStream
from meshtrio.rpc.tracer_dispatch import notify_tracer, notify_tracer_in_read_loop
from meshtrio.rpc.write_buffer import HIGH_WATER, MessageBatch
from meshtrio.transport.peer import Peer
from meshtrio.util.concurrency import SingleWaiter
from meshtrio.util.errors import UsageError

SERVER_STOPPED_MESSAGE = "the server stopped during the call"
"""The message of the status of calls that a stopping server ends."""


class Stream(ReceiveStream):
    """Sends and receives the messages of one call, and knows how it ended.

    One task may receive while another one sends.
    """

    __slots__ = ()

    sends_synchronously = False
    """Whether `on_writable` sends by itself, instead of waking a task that sends."""

    @property
    def peer(self) -> Peer:
        """The peer of the connection."""
        return self._connection.peer

    @property
    def reset_by_peer(self) -> bool:
        """Whether the peer has reset the stream or is lost, so that no status can be sent."""
        return self.error is not None and self.id not in self._connection.streams

    @property
    def has_succeeded(self) -> bool:
        """Whether the call has ended with status OK, on a client."""
        return self.trailers is not None and self.trailers.code == 0

    # -- sending -----------------------------------------------------------------------------

    def try_send(
        self,
        message: bytes,
        headers: bytes = b"",
        trailers: bytes = b"",
        end_stream: bool = False,
        batch: MessageBatch | None = None,
    ) -> bool:
        """Send a small message as `send` does, if nothing has to be waited for, as usual.

        The message is flushed with the other messages of `batch`, if there is one. Returns False,
        without effect, if the message has to be sent by `send`. Not a checkpoint.
        """
        connection, size = self._connection, len(message)
        if (
            size > MIN_SEPARATE_PREFIX_SIZE
            or size > self.message_limits.max_send_length
            or self.error is not None
            or (self.remote_closed and connection.is_client)  # With `error`, `send_closed`.
            or self.sending_charge
            or (self._is_turn_over and not end_stream)
            or self.message_tracer is not None
            or connection.write_buffer.size > HIGH_WATER
            or connection.window_waiters.streams
            or not connection.try_send_message(
                self.id, pack_message_prefix(False, size) + message, headers, trailers, end_stream
            )
        ):
            return False
        self.sent_size += size
        if headers:
            self.headers_sent = True
        if not end_stream:
            connection.counters.messages_sent += 1
            self._until_clock_check -= 1
            if not self._until_clock_check:
                self._check_clock()
        if batch is None:
            connection.flush()
        else:
            batch.add(size)
        return True

    async def send(
        self,
        message: bytes,
        *,
        compressed: bool = False,
        headers: bytes = b"",
        end_stream: bool = False,
        trailers: bytes = b"",
    ) -> None:
        """Send a message, waiting for the peer's flow-control window and for the socket.

        `headers` and `trailers` are encoded header blocks to send before and after it. A message to
        a server that has already responded is dropped. Raises RpcFailedError if the stream failed.

        Cancellation: the message may be sent in part, so the stream must be reset.
        """
        if self._is_turn_over and not end_stream:
            self._connection.flush()  # Messages of a batch must not wait for the turn.
            await self._wait_for_turn()
        if not compressed:
            await trio.lowlevel.checkpoint_if_cancelled()
            if self.try_send(message, headers, trailers, end_stream):
                return
        connection = self._connection
        if len(message) > self.message_limits.max_send_length:
            self.message_limits.check_send(len(message))
        encoded = compress(message) if compressed else message
        size = len(encoded)
        self.sent_size += size
        if self.message_tracer is not None:
            notify_tracer(self.path, self.message_tracer.message_sent, message, size)
            if end_stream:
                notify_tracer(self.path, self.message_tracer.half_closed)
        data = pack_message_prefix(compressed, size)
        if size > MIN_SEPARATE_PREFIX_SIZE:
            connection.keep_sent_message(message)
            # The prefix gets a frame of its own, which avoids copying the message.
            await self.send_data(data, headers=headers, following_size=size)
            data, headers = encoded, b""
        else:
            data += encoded
        await self.send_data(data, headers=headers, end_stream=end_stream, trailers=trailers)
        if not end_stream:
            connection.counters.messages_sent += 1
            self._until_clock_check -= 1
            if not self._until_clock_check:
                self._check_clock()

    async def send_data(
        self,
        data: bytes,
        *,
        headers: bytes = b"",
        end_stream: bool = False,
        trailers: bytes = b"",
        following_size: int = 0,
    ) -> None:
        """Send DATA as `send` does; the caller will send `following_size` bytes of DATA next."""
        await trio.lowlevel.checkpoint_if_cancelled()
        connection = self._connection
        if self.sending_charge:
            self.charge_sending(0)
        if connection.write_buffer.size > HIGH_WATER:
            self.charge_blocked_send(len(data) + following_size)
            await connection.write_buffer.wait_below_high_water()
        left: bytes | memoryview = data
        if headers and not self._check_send_open():
            self.headers_sent = True
            connection.send_headers(self.id, headers)
        while not self._check_send_open():
            taken = connection.send_data(self.id, left, end_stream=end_stream)
            if taken == len(left):
                break
            left = memoryview(left)[taken:]
            connection.flush()
            connection.window_waiters.wait_for_window(self)
            self.charge_blocked_send(len(left) + following_size)
            await self._wait_writable()
            if self._loop_share.charge(WAKE_COST):
                await self._loop_share.wait_for_turn()
        if connection.window_waiters.streams:
            connection.window_waiters.wake_next(self)
        if trailers and not self.send_closed:
            connection.send_headers(self.id, trailers, end_stream=True)
        connection.flush()

    async def _wait_writable(self) -> None:
        if self._writable is None:
            self._writable = SingleWaiter()
        self._restart_turn()
        await self._writable.wait()

    async def send_end_stream(self) -> None:
        """End this side without a further message; does nothing if it has ended already."""
        await trio.lowlevel.checkpoint_if_cancelled()
        if not self.send_closed and self._connection.is_send_open(self.id):
            self._connection.send_data(self.id, b"", end_stream=True)
            self._connection.flush()
            if self.message_tracer is not None:
                notify_tracer(self.path, self.message_tracer.half_closed)

    def _check_send_open(self) -> bool:
        if self.error is not None:
            raise self.error
        if not self.send_closed and not self._connection.is_send_open(self.id):
            text = "this side of the call was ended already; nothing can be sent after it"
            raise UsageError(text)
        return self.send_closed

    def reset(self, code: ErrorCode) -> None:
        """End both directions immediately; never blocks, and may be called again."""
        self._connection.remove_stream(self.id, code)
        if not self.remote_closed and self.error is None:
            self.fail(purerpc.CancelledError("the call was cancelled on this side"))

    # -- events, called by the connection -----------------------------------------------

    def on_headers(self, headers: ResponseHeaders) -> None:
        """Handle response headers, on a client."""
        if headers.encoding not in ENCODINGS:
            text = f"the response has the unsupported grpc-encoding {headers.encoding!r}"
            self.fail(purerpc.InternalError(text))
        self.encoding = headers.encoding
        if self.message_tracer is not None:
            notify_tracer_in_read_loop(self.path, self.message_tracer.headers_received, headers)

    def on_data(self, data: bytes, end_stream: bool) -> None:
        if self.error is not None:
            return
        message = None
        if self._reader is None and not self._unparsed:
            message = parse_single_message(data, self.message_limits.max_receive_length)
        if message is None:
            self._queue_data(data)
        else:
            if self._messages:
                self._messages.append(message)
            else:
                self._messages = [message]
            self._unread_size += len(data)
            if self._unread_size - self._charged_unread_size > MIN_CHARGED_SIZE:
                self._update_received_charge()
        if end_stream:
            self.on_end_stream(None)
        elif self._readable is not None:
            self._readable.wake()

    def _wake_reader(self) -> None:
        if self._readable is not None:
            self._readable.wake()

    def on_end_stream(self, trailers: Trailers | None) -> None:
        self.trailers = trailers
        if self._reader is not None:
            self._check_message_complete()
        self.remote_closed = True
        self._wake_reader()
        self.on_writable()
        if (
            self.message_tracer is not None
            and not self._has_messages
            and not self._connection.is_client
        ):
            notify_tracer_in_read_loop(self.path, self.message_tracer.half_close_received)

    def on_writable(self) -> None:
        if self._writable is not None:
            self._writable.wake()

    def fail(self, error: purerpc.RpcFailedError) -> None:
        """End the stream early; an error after the first one is ignored."""
        if not self.send_closed:
            self.error = error
        if self.cancel_on_error is not None:
            self.cancel_on_error.cancel()
        self._wake_reader()
        self.on_writable()

    @property
    def has_started(self) -> bool:
        """Whether the call may have been processed, so that it cannot be refused, on a server."""
        return True

    def refuse(self) -> None:
        """Refuse a call that has not started, so that its client may retry it, on a server."""
        self.reset(ErrorCode.REFUSED_STREAM)

    def on_shutdown(self) -> None:
        """End the call of a handler because the server shuts down."""
        self.fail(purerpc.UnavailableError(SERVER_STOPPED_MESSAGE))

    def on_shutdown_timeout(self) -> None:
        """End the call because the grace period of the shutdown is over."""
        self.fail(purerpc.UnavailableError(SERVER_STOPPED_MESSAGE))

    def on_age_timeout(self, error: purerpc.RpcFailedError) -> None:
        """End the call with an error because its connection is too old, on a server."""
        self.fail(error)
