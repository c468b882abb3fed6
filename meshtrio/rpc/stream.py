"""One stream of a connection: the messages of a call in both directions, on either side.

A call receives and sends messages, its connection reports what the peer does (`on_...`). A stream
knows its connection only as a `StreamTransport`, and must not outlive it.
"""

from __future__ import annotations

from collections import deque
from time import perf_counter

import purerpc
import trio

from meshtrio.grpc.compression import (
    ENCODINGS,
    IDENTITY,
    DecompressionError,
    compress,
    decompress,
)
from meshtrio.grpc.framing import (
    MESSAGE_PREFIX_SIZE,
    MessageTooLargeError,
    encode_message_prefix,
    parse_single_message,
)
from meshtrio.grpc.headers import ResponseHeaders, Trailers
from meshtrio.http2.errors import ErrorCode
from meshtrio.rpc.accounted_stream import MIN_CHARGED_SIZE
from meshtrio.rpc.fairness import WAKE_COST, EventLoopShare
from meshtrio.rpc.message_tracer import MessageTracer
from meshtrio.rpc.peer_accounts import ConnectionAccount
from meshtrio.rpc.receive_buffer import CompressedMessage, ReceiveBuffer
from meshtrio.rpc.stream_transport import StreamTransport
from meshtrio.rpc.tracer_dispatch import notify_tracer, notify_tracer_in_read_loop
from meshtrio.transport.peer import Peer
from meshtrio.util.concurrency import SingleWaiter
from meshtrio.util.errors import UsageError

_MIN_SEPARATE_PREFIX_SIZE = 32 * 1024
"""Size of a message, in bytes, from which copying it costs more than another frame."""
_FIRST_CLOCK_CHECK = 4
"""Number of messages that a task handles after a wait before it reads the clock."""
_MAX_CLOCK_CHECK_INTERVAL = 256
"""Maximum number of messages between two readings of the clock."""
SERVER_STOPPED_MESSAGE = "the server stopped during the call"
"""The message of the status of calls that a stopping server ends."""


class Stream(ReceiveBuffer):
    """Sends and receives the messages of one call, and knows how it ended.

    Received messages are held until the call takes them, and only then may the peer send more,
    except for the rest of an incomplete message: at most one window and one message are held. One
    task may receive while another one sends.
    """

    __slots__ = (
        "_clock_check_interval",
        "_clock_checked_at",
        "_connection",
        "_readable",
        "_until_clock_check",
        "_writable",
        "cancel_on_error",
        "headers",
        "headers_sent",
        "id",
        "last_message_compressed",
        "message_tracer",
        "owner",
        "path",
        "received_size",
        "sent_size",
    )

    sends_synchronously = False
    """Whether `on_writable` sends by itself, instead of waking a task that sends."""

    def __init__(self, connection: StreamTransport, stream_id: int) -> None:
        super().__init__(connection.message_limits)
        self.id = stream_id
        self.headers: ResponseHeaders | None = None
        """The response headers, on a client."""
        self.headers_sent = False
        """Whether a server has sent the response headers, so that trailers must follow."""
        self.owner: object = None
        """The channel of the call, on a client."""
        self.path = ""
        """The `:path` of the call: on a server, and on a client if the call is traced."""
        self.last_message_compressed = False
        """Whether the message that was taken last was compressed."""
        self.sent_size = self.received_size = 0
        """Size of the messages as they were sent and received, in bytes, without framing."""
        self.message_tracer: MessageTracer | None = None
        """The tracer of the stream's messages, if one is installed."""
        self.cancel_on_error: trio.CancelScope | None = None
        """The scope of the handler, on a server, which is cancelled if the stream fails."""
        self._connection = connection
        self.account = connection.account
        """The account that an open stream of a server is charged to."""
        if self.account is not None:
            self.account.peer_account.active_calls += 1
        self._until_clock_check = _FIRST_CLOCK_CHECK
        """Number of messages until the next reading of the clock."""
        self._clock_check_interval = 1
        self._clock_checked_at = 0.0
        """The time of the last reading; 0 if the task has waited since."""
        # Made when a task first waits: most messages arrive whole and are sent without waiting.
        self._readable: SingleWaiter | None = None
        self._writable: SingleWaiter | None = None

    @property
    def peer(self) -> Peer:
        """The peer of the connection."""
        return self._connection.peer

    @property
    def reset_by_peer(self) -> bool:
        """Whether the peer has reset the stream or is lost, so that no status can be sent."""
        return self.error is not None and not self._connection.has_stream(self.id)

    @property
    def send_closed(self) -> bool:
        """Whether messages are dropped: the stream failed, or its server has responded."""
        return self.error is not None or (self.remote_closed and self._connection.is_client)

    @property
    def has_succeeded(self) -> bool:
        """Whether the call has ended with status OK, on a client."""
        return self.trailers is not None and self.trailers.code == 0

    # -- receiving --------------------------------------------------------------

    async def receive(self) -> bytes | None:
        """Take the next message; None after the last one.

        Raises:
            RpcFailedError: The stream failed; messages that arrived before are taken first.

        Cancellation: no message is lost.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        if self._messages:
            self._until_clock_check -= 1
            if not self._until_clock_check and self._is_time_slice_over():
                await self._wait_for_turn()
        if self.taken_charge:
            self.release_taken()
        while not self._messages and not self._parse_until_message():
            if self.error is not None:
                raise self.error
            if self.remote_closed:
                return None
            await self._wait_readable()
        if self.encoding != IDENTITY:
            await self._wait_to_decompress()
        if self.account is not None and self.account.peer_account.working:
            await self._wait_for_work_budget(self.account)
        message = self._pop_message()
        if not self.remote_closed and self.release_window():
            self._connection.flush()
        return self._decode_message(message)

    def _pop_message(self) -> bytes:
        """Remove the next message from the queue, without decoding it."""
        assert isinstance(self._messages, deque)
        message = self._messages.popleft()
        if not self._messages:
            self._messages = ()
        self._unread_size -= len(message) + MESSAGE_PREFIX_SIZE
        self._connection.counters.messages_received += 1
        if self.received_charge:
            self._update_received_charge()
        return message

    async def receive_single(self) -> tuple[bytes | None, int]:
        """Wait for the end of a call with a single reply.

        Returns:
            The first reply, if any, and the number of replies; more than one is the peer's error.

        Raises:
            RpcFailedError: The stream failed.
        """
        while not self.remote_closed and len(self._messages) < 2 and self.error is None:
            await self._wait_readable()
        if self.error is not None:
            raise self.error
        count = len(self._messages)
        return (self._decode_message(self._messages[0]) if self._messages else None), count

    async def receive_single_request(self) -> bytes:
        """Take the request of a method with a single one, once the client has ended its side.

        Raises:
            RpcFailedError: The stream failed. UnimplementedError: There is not exactly one request
                (statuscodes.md, "Request cardinality violation").
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        while not self.remote_closed and self.error is None and not self._has_second_message:
            if self._messages and not self.is_awaiting_end_stream:
                self._await_end_stream()
            await self._wait_readable()
        self.is_awaiting_end_stream = False
        if self.error is not None:
            raise self.error
        if (
            not isinstance(self._messages, deque)
            or len(self._messages) > 1
            or not self.remote_closed
        ):
            number = "more than one request" if self._messages else "no request"
            raise purerpc.UnimplementedError(f"the call has {number}, and its method takes one")
        if self.encoding != IDENTITY:
            await self._wait_to_decompress()
        if self.account is not None and self.account.peer_account.working:
            await self._wait_for_work_budget(self.account)
        message, self._messages = self._messages[0], ()
        self._unread_size -= len(message) + MESSAGE_PREFIX_SIZE
        self._connection.counters.messages_received += 1
        if self.received_charge:
            self._update_received_charge()
        return self._decode_message(message)

    def _await_end_stream(self) -> None:
        """Start the timeout for the client's END_STREAM, and open the window.

        A window that the request has filled would hide a second request.
        """
        self.is_awaiting_end_stream, self._incomplete_since = True, trio.current_time()
        connection = self._connection
        if connection.set_receive_window(self.id, connection.limits.stream_window):
            connection.flush()

    def _decode_message(self, message: bytes) -> bytes:
        """Decompress a message that is taken, and charge and trace it."""
        size = len(message)
        self.received_size += size
        self.last_message_compressed = isinstance(message, CompressedMessage)
        if self.last_message_compressed:
            message = self._decompress(message)
        if size > MIN_CHARGED_SIZE or self.last_message_compressed:
            self.charge_taken(len(message))
        if self.message_tracer is not None:
            notify_tracer(self.path, self.message_tracer.message_received, message, size)
            if self.remote_closed and not self._has_messages and not self._connection.is_client:
                notify_tracer(self.path, self.message_tracer.half_close_received)
        return message

    def _decompress(self, message: bytes) -> bytes:
        began = perf_counter()
        try:
            return decompress(message, self.message_limits.max_receive_length)
        except MessageTooLargeError as exc:
            raise self.message_limits.too_large_error(exc.length, at_least=True) from None
        except DecompressionError as exc:
            raise purerpc.InternalError(f"received a message that is {exc}") from None
        finally:
            self._loop_share.charge(perf_counter() - began)

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

        A message to a server that has already responded is dropped.

        Args:
            message: The serialized message.
            compressed: Whether to compress it.
            headers: An encoded header block to send before it.
            end_stream: Whether to end this side after it.
            trailers: An encoded header block that ends this side after it.

        Raises:
            RpcFailedError: The stream failed.

        Cancellation: the message may be sent in part, so the stream must be reset.
        """
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
        data = encode_message_prefix(size, compressed=compressed)
        if size > _MIN_SEPARATE_PREFIX_SIZE:
            # The prefix gets a frame of its own, which avoids copying the message.
            await self.send_data(data, headers=headers, following_size=size)
            data, headers = encoded, b""
        else:
            data += encoded
        await self.send_data(data, headers=headers, end_stream=end_stream, trailers=trailers)
        if not end_stream:
            connection.counters.messages_sent += 1
            self._until_clock_check -= 1
            if not self._until_clock_check and self._is_time_slice_over():
                await self._wait_for_turn()

    async def send_data(
        self,
        data: bytes,
        *,
        headers: bytes = b"",
        end_stream: bool = False,
        trailers: bytes = b"",
        following_size: int = 0,
    ) -> None:
        """Send DATA as `send` does.

        Args:
            data: The DATA.
            headers: An encoded header block to send before it.
            end_stream: Whether to end this side after it.
            trailers: An encoded header block that ends this side after it.
            following_size: Size of DATA that the caller will send next, in bytes.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        connection = self._connection
        if self.sending_charge:
            self.charge_sending(0)
        if connection.above_high_water:
            self.charge_blocked_send(len(data) + following_size)
            await connection.wait_below_high_water()
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
            connection.wake_on_window(self)
            self.charge_blocked_send(len(left) + following_size)
            await self._wait_writable()
            if self._loop_share.charge(WAKE_COST):
                await self._loop_share.wait_for_turn()
        if connection.window_waiters:
            connection.wake_next_sender(self)
        if trailers and not self.send_closed:
            connection.send_headers(self.id, trailers, end_stream=True)
        connection.flush()

    async def _wait_to_decompress(self) -> None:
        """Wait for a turn if the peer has used up its share of time, before decompressing."""
        share = self._loop_share
        if share.remaining < 0 and share.charge(0.0):
            await share.wait_for_turn()
            self._check_not_discarded()

    def _check_not_discarded(self) -> None:
        """Raise the stream's error if its messages were discarded during a wait."""
        if not self._messages:
            assert self.error is not None
            raise self.error

    async def _wait_for_work_budget(self, account: ConnectionAccount) -> None:
        """Wait for room in the memory budget before a message is taken, unless it is small."""
        assert isinstance(self._messages, deque)
        message = self._messages[0]
        if isinstance(message, CompressedMessage) or len(message) > MIN_CHARGED_SIZE:
            await account.wait_for_work_budget()
            self._check_not_discarded()

    def retry_reservation(self) -> bool:
        """Let the rest of a large message arrive; return False if there is still no room."""
        if self.account is None or self.error is not None or self._reader is None:
            return True
        if not self._try_reserve(self._reader):
            return False
        if self.release_window():
            self._connection.flush()
        return True

    @property
    def _loop_share(self) -> EventLoopShare:
        account = self.account
        return self._connection.loop_share if account is None else account.peer_account.loop_share

    def _is_time_slice_over(self) -> bool:
        """Return whether the call's task must wait for a turn.

        A handler whose peer is as fast as itself would never wait otherwise. The clock is read
        after as many messages as may take a time slice, at the pace of the last ones.
        """
        now, time_slice = perf_counter(), self._loop_share.time_slice
        checked_at, self._clock_checked_at = self._clock_checked_at, now
        if not checked_at:
            self._until_clock_check = self._clock_check_interval = 1
            return False
        worked = now - checked_at
        interval = min(
            self._clock_check_interval * time_slice / max(worked, 1e-9),
            2 * self._clock_check_interval,
            _MAX_CLOCK_CHECK_INTERVAL,
        )
        self._until_clock_check = self._clock_check_interval = max(int(interval), 1)
        return worked >= time_slice / 2

    async def _wait_for_turn(self) -> None:
        await self._loop_share.wait_for_turn()
        self._clock_checked_at = perf_counter()

    async def _wait_readable(self) -> None:
        if self._readable is None:
            self._readable = SingleWaiter()
        self._clock_checked_at, self._until_clock_check = 0.0, _FIRST_CLOCK_CHECK
        await self._readable.wait()

    async def _wait_writable(self) -> None:
        if self._writable is None:
            self._writable = SingleWaiter()
        self._clock_checked_at, self._until_clock_check = 0.0, _FIRST_CLOCK_CHECK
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
            raise UsageError(
                "this side of the call was ended already; nothing can be sent after it"
            )
        return self.send_closed

    def reset(self, code: ErrorCode) -> None:
        """End both directions immediately; never blocks, and may be called again."""
        self._connection.remove_stream(self.id, code)
        if not self.remote_closed and self.error is None:
            self.fail(purerpc.CancelledError("the call was cancelled on this side"))

    def release_window(self) -> bool:
        """Open the window for what may be received now, and return whether a flush is due.

        That is one window without the waiting messages and, if none waits, the rest of an
        incomplete message. All DATA that the engine has counted must have been passed to `on_data`.
        """
        window, reader = self._connection.limits.stream_window, self._reader
        room = max(window - self._unread_size, 0)
        if reader is not None:
            if reader.framed_size <= window or self.has_reservation:
                room += 0 if self._has_messages else reader.missing_size
            elif not self._has_messages and self._try_reserve(reader):
                room += reader.missing_size
            else:
                room = max(room - reader.buffered_size, 0)
        return self._connection.set_receive_window(self.id, room)

    # -- events, called by the connection -----------------------------------------------

    def on_headers(self, headers: ResponseHeaders) -> None:
        """Handle response headers, on a client."""
        if headers.encoding not in ENCODINGS:
            text = f"the peer answered in encoding {headers.encoding!r}"
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
            self._queue_message(message)
            if self._unread_size > MIN_CHARGED_SIZE:
                self._update_received_charge()
        if end_stream:
            self.on_end_stream(None)
        self._wake_reader()

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

    def _fail_receive(self, error: purerpc.RpcFailedError) -> None:
        """Fail because of what was received; the stream may have ended meanwhile."""
        if self.send_closed and self.error is None:
            self.error = error
        else:
            self.fail(error)

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
