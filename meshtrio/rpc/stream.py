"""One call's two directions of messages on a connection, the same on either side.

Over 600 lines, because sending, receiving and what the peer does change the one state of a stream;
what it counts in memory is in `counted`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from time import perf_counter
from typing import TYPE_CHECKING

import purerpc
import trio

from meshtrio.errors import UsageError
from meshtrio.grpc.compression import (
    ENCODINGS,
    IDENTITY,
    DecompressionError,
    compress,
    decompress,
)
from meshtrio.grpc.framing import (
    MESSAGE_PREFIX_SIZE,
    MessageReader,
    MessageTooLargeError,
    encode_message_prefix,
    parse_single_message,
)
from meshtrio.grpc.headers import ResponseHeaders, Trailers
from meshtrio.http2.errors import ErrorCode
from meshtrio.rpc.accounted_stream import MIN_CHARGED_SIZE, AccountedStream
from meshtrio.rpc.fairness import WAKE_COST, EventLoopShare
from meshtrio.rpc.message_tracer import MessageTracer
from meshtrio.rpc.peer_accounts import ConnectionAccount
from meshtrio.rpc.tracer_dispatch import notify_tracer, notify_tracer_in_read_loop
from meshtrio.transport.peer import Peer
from meshtrio.util.single_waiter import SingleWaiter

if TYPE_CHECKING:
    from meshtrio.rpc.connection import Connection

_MIN_SEPARATE_PREFIX_SIZE = 32 * 1024
"""Bytes of a message from which a copy costs more than a frame."""
_MAX_PARSED_MESSAGES = 256
"""Messages of a stream that wait to be taken, from which on DATA is kept as it comes."""
_MESSAGE_OVERHEAD = 48
"""Bytes that an object takes beyond its content."""
_FIRST_CLOCK_CHECK = 4
"""Messages that a task may handle after it has waited before the clock is looked at."""
_MAX_CLOCK_CHECK_INTERVAL = 256
_CHUNK_SIZE = 16 * 1024
"""Bytes of DATA that are cut into messages at once: up to 3,276 messages, for some 0.5 ms."""


SERVER_STOPPED_MESSAGE = "the server stopped during the call"
"""Why a call fails that a server cuts."""


class CompressedMessage(bytes):
    """A message that is still as its encoding made it."""

    __slots__ = ()


class Stream(AccountedStream):
    """Messages in, messages out, and how it ended.

    Received messages are held until they are taken, and the peer may send more only then, but for
    the rest of a message under way: what can be held is one window and one message. One task may
    receive while another sends.
    """

    __slots__ = (
        "_clock_check_interval",
        "_clock_checked_at",
        "_connection",
        "_incomplete_since",
        "_messages",
        "_readable",
        "_reader",
        "_unparsed",
        "_unread_size",
        "_until_clock_check",
        "_writable",
        "cancel_on_error",
        "encoding",
        "error",
        "headers",
        "headers_sent",
        "id",
        "is_awaiting_end_stream",
        "last_message_compressed",
        "message_limits",
        "message_tracer",
        "owner",
        "path",
        "received_size",
        "remote_closed",
        "sent_size",
        "trailers",
    )

    sends_synchronously = False
    """Whether `on_writable` sends, instead of waking a task that does."""

    def __init__(self, connection: Connection, stream_id: int) -> None:
        self.id = stream_id
        self.message_limits = connection.message_limits
        """Of its messages; a call that has limits of its own sets them when it starts."""
        self.headers: ResponseHeaders | None = None
        self.headers_sent = False
        """On a server: the head of the response has gone out, so trailers must follow it."""
        self.trailers: Trailers | None = None
        self.owner: object = None
        """On a client: the channel whose call it is."""
        self.path = ""
        """What was called: on a server, and on a client where the call is followed."""
        self.encoding = IDENTITY
        """What the peer's compressed messages are compressed with."""
        self.last_message_compressed = False
        """Whether the message that was taken last had been compressed."""
        self.sent_size = self.received_size = 0
        """Bytes of its messages, as they are on the wire, without framing."""
        self.message_tracer: MessageTracer | None = None
        """Whoever wants to know of each message."""
        self.remote_closed = False
        """The peer will send nothing more, and said so."""
        self.error: purerpc.RpcFailedError | None = None
        """Why the stream ended before its time."""
        self.cancel_on_error: trio.CancelScope | None = None
        """Cancelled when the stream fails: the scope of the handler on a server."""
        self._connection = connection
        self.account = connection.account
        """On a server, while the stream is open: the memory it uses counts there."""
        if self.account is not None:
            self.account.peer_account.active_calls += 1
        self.received_charge = self.taken_charge = self.sending_charge = 0
        """Bytes counted there: that wait to be taken, that the handler works with, to be sent."""
        self.has_reservation = self.has_large_message = False
        self._messages: deque[bytes] | tuple[()] = ()
        """A deque only while it holds something: an empty one is larger than all the rest."""
        self._unread_size = 0
        """Bytes of the messages that wait to be taken."""
        self._unparsed: deque[bytes] | tuple[()] = ()
        """DATA of very many messages, which is cut into messages as they are taken."""
        self._until_clock_check = _FIRST_CLOCK_CHECK
        """Messages until the clock is looked at to see if the call's task has worked for long."""
        self._clock_check_interval = 1
        """Messages from the last look at the clock to the next."""
        self._clock_checked_at = 0.0
        """When that was; 0 if the task has waited since."""
        self._incomplete_since = 0.0
        self.is_awaiting_end_stream = False
        """On a server: the one request of a call is here, and the client has not ended its side."""
        self._reader: MessageReader | None = None
        """Made for the first DATA that is not just one whole message."""
        self._readable: SingleWaiter | None = None
        self._writable: SingleWaiter | None = None
        """Both are made when something first waits: most requests come whole, and go at once."""

    @property
    def peer(self) -> Peer:
        return self._connection.peer

    @property
    def reset_by_peer(self) -> bool:
        """The other side has reset it, or is gone: nothing can be told there any more."""
        return self.error is not None and self.id not in self._connection.streams

    @property
    def send_closed(self) -> bool:
        """Nothing that is sent matters any more: the stream failed, or its server has answered."""
        return self.error is not None or (self.remote_closed and self._connection.is_client)

    @property
    def has_succeeded(self) -> bool:
        """On a client: whether the call has ended with status OK."""
        return self.trailers is not None and self.trailers.code == 0

    # -- for the call: messages --------------------------------------------------------------

    async def receive(self) -> bytes | None:
        """Take the next message, None after the last. Cancellable, and then nothing is lost.

        Raises the status the stream failed with, once the messages before it are taken.
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
        """Take the next message as it was received."""
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
        """Wait for the end of a call that has but one reply; give it, and how many there were.

        A second one is the peer's error, and is not waited past. Raises the status the stream
        failed with.
        """
        while not self.remote_closed and len(self._messages) < 2 and self.error is None:
            await self._wait_readable()
        if self.error is not None:
            raise self.error
        count = len(self._messages)
        return (self._decode_message(self._messages[0]) if self._messages else None), count

    async def receive_single_request(self) -> bytes:
        """On a server: take the request of a method that has one, once the client has ended.

        Raises the status the stream failed with, UnimplementedError for another number of requests
        than one (statuscodes.md, "Request cardinality violation").
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

    @property
    def _has_messages(self) -> bool:
        """Messages wait to be taken."""
        return bool(self._messages or self._unparsed)

    @property
    def _has_second_message(self) -> bool:
        """More than one message has come, or begun."""
        count = len(self._messages)
        return count > 1 or (
            count == 1 and self._reader is not None and self._reader.has_partial_message
        )

    def _await_end_stream(self) -> None:
        """Limit how long the client may take to end its side, and let it show what it still sends:
        a window that the request has filled would hide a second one."""
        self.is_awaiting_end_stream, self._incomplete_since = True, trio.current_time()
        connection = self._connection
        if connection.engine.set_receive_window(self.id, connection.limits.stream_window):
            connection.flush()

    def _decode_message(self, message: bytes) -> bytes:
        """A message that is taken, as it was before its encoding."""
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
        """Send a message: after a head, if given, and before this side's end, bare or as trailers.

        Waits for the peer's window and for the socket. Raises the status the stream failed with;
        a client's message to a server that has answered already is dropped.
        When cancelled the message may be half sent, so the stream has to be reset.
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
            # A frame of its own for the prefix, which saves copying the message behind it.
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
        """The same as `send`, for DATA as it is; `following`: bytes that the caller has to send
        after it."""
        await trio.lowlevel.checkpoint_if_cancelled()
        connection = self._connection
        if self.sending_charge:
            self.charge_sending(0)
        if connection.write_buffer.above_high_water:
            self.charge_blocked_send(len(data) + following_size)
            await connection.write_buffer.wait_below_high_water()
        left: bytes | memoryview = data
        if headers and not self._check_send_open():
            self.headers_sent = True
            connection.engine.send_headers(self.id, headers)
        while not self._check_send_open():
            taken = connection.engine.send_data(self.id, left, end_stream=end_stream)
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
            connection.engine.send_headers(self.id, trailers, end_stream=True)
        connection.flush()

    async def _wait_to_decompress(self) -> None:
        """Wait for a turn before a compressed message is taken, if the peer has had so many, or so
        large ones, that they have used up its time."""
        share = self._loop_share
        if share.remaining < 0 and share.charge(0.0):
            await share.wait_for_turn()
            self._check_not_discarded()

    def _check_not_discarded(self) -> None:
        """Raise what the stream failed with if its messages were dropped meanwhile."""
        if not self._messages:
            assert self.error is not None
            raise self.error

    async def _wait_for_work_budget(self, account: ConnectionAccount) -> None:
        """Wait before a message is taken that is not small, until others have let go of enough."""
        assert isinstance(self._messages, deque)
        message = self._messages[0]
        if isinstance(message, CompressedMessage) or len(message) > MIN_CHARGED_SIZE:
            await account.wait_for_work_budget()
            self._check_not_discarded()

    def _update_received_charge(self) -> None:
        """Count what waits to be taken. Fails the call if the peer makes this side hold too much,
        except for a message that room was reserved for."""
        reader = self._reader
        partial = (
            0
            if reader is None
            else reader.framed_size
            if self.has_reservation
            else reader.buffered_size
        )
        size = self._unread_size + _MESSAGE_OVERHEAD * len(self._messages) + partial
        budget = self.charge_received(size)
        if budget and not (self.has_reservation or self.has_large_message):
            self.discard_received()
            self.charge_received(0)
            text = f"what was received and not processed yet uses up {budget}"
            self.fail(purerpc.ResourceExhaustedError(text))
        elif self.has_large_message and not self._has_messages:
            self.release_reservation()

    def discard_received(self) -> None:
        """Forget what no handler has taken."""
        self._messages = self._unparsed = ()
        self._reader, self._unread_size = None, 0

    def _try_reserve(self, reader: MessageReader) -> bool:
        """Whether the rest of a message may be received, which does not fit into the window."""
        if self.has_reservation or self.account is None:
            return True
        if self.reserve(reader.framed_size):
            self._update_received_charge()
        return self.has_reservation

    def retry_reservation(self) -> bool:
        """Let the rest of a message come if there is room for it now; false if there is not."""
        if self.account is None or self.error is not None or self._reader is None:
            return True
        if not self._try_reserve(self._reader):
            return False
        if self.release_window():
            self._connection.flush()
        return True

    @property
    def _loop_share(self) -> EventLoopShare:
        ledger = self.account
        return self._connection.loop_share if ledger is None else ledger.peer_account.loop_share

    def _is_time_slice_over(self) -> bool:
        """Whether the call's task has to let others work before it goes on.

        A handler whose peer reads, or writes, as fast as it does would never wait otherwise. The
        clock is looked at each time that so many messages have come as may take a slice, at the
        pace of the last ones.
        """
        now, slice_ = perf_counter(), self._loop_share.time_slice
        looked, self._clock_checked_at = self._clock_checked_at, now
        if not looked:
            self._until_clock_check = self._clock_check_interval = 1
            return False
        worked = now - looked
        pace = min(
            self._clock_check_interval * slice_ / max(worked, 1e-9),
            2 * self._clock_check_interval,
            _MAX_CLOCK_CHECK_INTERVAL,
        )
        self._until_clock_check = self._clock_check_interval = max(int(pace), 1)
        return worked >= slice_ / 2

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
        """End this side without a further message. Does nothing where it has ended already."""
        await trio.lowlevel.checkpoint_if_cancelled()
        if not self.send_closed and self._connection.engine.is_send_open(self.id):
            self._connection.engine.send_data(self.id, b"", end_stream=True)
            self._connection.flush()
            if self.message_tracer is not None:
                notify_tracer(self.path, self.message_tracer.half_closed)

    def _check_send_open(self) -> bool:
        if self.error is not None:
            raise self.error
        if not self.send_closed and not self._connection.engine.is_send_open(self.id):
            raise UsageError(
                "this side of the call was ended already; nothing can be sent after it"
            )
        return self.send_closed

    def reset(self, code: ErrorCode) -> None:
        """End the stream at once, in both directions; never blocks, and may be repeated."""
        self._connection.remove_stream(self, code)
        if not self.remote_closed and self.error is None:
            self.fail(purerpc.CancelledError("the call was cancelled on this side"))

    def release_window(self) -> bool:
        """Let the peer fill the window again, less what waits to be taken here; where nothing
        does, let it finish the message under way at once. True where that is to be flushed.

        Only called when all DATA that the engine has counted has been handed on to the stream.
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
        return self._connection.engine.set_receive_window(self.id, room)

    # -- for the connection: what the peer did -----------------------------------------------

    def on_headers(self, headers: ResponseHeaders) -> None:
        """On a client: the head of a response that goes on."""
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

    def _queue_message(self, message: bytes) -> None:
        if isinstance(self._messages, deque):
            self._messages.append(message)
        else:
            self._messages = deque((message,))
        self._unread_size += len(message) + MESSAGE_PREFIX_SIZE

    @property
    def incomplete_since(self) -> float | None:
        """When the message or the wait was begun that is not over yet; None where there is none."""
        partial = self.is_awaiting_end_stream or (
            self._reader is not None and self._reader.has_partial_message and not self._unparsed
        )
        return self._incomplete_since if partial else None

    def _queue_data(self, data: bytes) -> None:
        """Keep DATA that is not just one whole message: cut now, or later if there is much."""
        reader = self._reader
        if self._unparsed or len(self._messages) >= _MAX_PARSED_MESSAGES:
            self._queue_unparsed(data)
        elif len(data) <= _CHUNK_SIZE or (reader is not None and reader.missing_size >= len(data)):
            self._parse_data(data)
        else:
            self._queue_unparsed(data)
            while self._unparsed and len(self._messages) < _MAX_PARSED_MESSAGES:
                self._parse_next_chunk()
        self._update_received_charge()

    def _queue_unparsed(self, data: bytes) -> None:
        self._unread_size += len(data)
        if not isinstance(self._unparsed, deque):
            self._unparsed = deque()
        self._unparsed += [data[i : i + _CHUNK_SIZE] for i in range(0, len(data), _CHUNK_SIZE)]

    def _parse_until_message(self) -> bool:
        """Cut DATA that was kept until there is a message; false if there is none."""
        while self._unparsed and not self._messages:
            self._parse_next_chunk()
        return bool(self._messages)

    def _parse_next_chunk(self) -> None:
        """Cut DATA that was kept as it came, once all messages before it were taken."""
        assert isinstance(self._unparsed, deque)
        data = self._unparsed.popleft()
        self._unread_size -= len(data)
        if not self._unparsed:
            self._unparsed = ()
        if self.error is None:
            self._parse_data(data)
            if self.remote_closed:
                self._check_message_complete()

    def _parse_data(self, data: bytes) -> None:
        """Take DATA whose frames and messages do not coincide."""
        if self._reader is None:
            self._reader = MessageReader(self.message_limits.max_receive_length)
        if not self._reader.has_partial_message:
            self._incomplete_since = trio.current_time()
        whole = len(self._messages)
        try:
            self._queue_messages(self._reader.feed(data))
        except MessageTooLargeError as exc:
            self._queue_messages(exc.complete_messages)
            self._fail_receive(self.message_limits.too_large_error(exc.length))
        if len(self._messages) > whole:
            self._incomplete_since = trio.current_time()
            if self.has_reservation:
                self.complete_reservation()

    def _queue_messages(self, messages: Sequence[tuple[bool, bytes]]) -> None:
        for compressed, message in messages:
            if compressed and self.encoding == IDENTITY:
                error = purerpc.InternalError("a message was compressed without agreement")
                self._fail_receive(error)
                return
            self._queue_message(CompressedMessage(message) if compressed else message)

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

    def _check_message_complete(self) -> None:
        """Fail a stream that has ended in the middle of a message, unless it failed anyway."""
        if self._unparsed or self._reader is None or not self._reader.has_partial_message:
            return
        if self.trailers is None or self.trailers.code == 0:
            error = purerpc.InternalError("the stream ended in the middle of a message")
            self._fail_receive(error)

    def _fail_receive(self, error: purerpc.RpcFailedError) -> None:
        """Fail for what was received, which may be found out after the end has come."""
        if self.send_closed and self.error is None:
            self.error = error
        else:
            self.fail(error)

    def on_writable(self) -> None:
        if self._writable is not None:
            self._writable.wake()

    def fail(self, error: purerpc.RpcFailedError) -> None:
        """End the stream before its time; the first reason stands."""
        if not self.send_closed:
            self.error = error
        if self.cancel_on_error is not None:
            self.cancel_on_error.cancel()
        self._wake_reader()
        self.on_writable()

    @property
    def has_started(self) -> bool:
        """On a server: something may have processed the call, so that it cannot be refused."""
        return True

    def refuse(self) -> None:
        """On a server: end a call that has not begun, for its client to make again."""
        self.reset(ErrorCode.REFUSED_STREAM)

    def on_shutdown(self) -> None:
        """On a server that is shutting down: end the call."""
        self.fail(purerpc.UnavailableError(SERVER_STOPPED_MESSAGE))

    def on_shutdown_timeout(self) -> None:
        """The time that was left for it is over."""
        self.fail(purerpc.UnavailableError(SERVER_STOPPED_MESSAGE))


class DiscardingStream(Stream):
    """A stream whose request is of no interest: what comes is dropped."""

    __slots__ = ()

    def on_data(self, data: bytes, end_stream: bool) -> None:
        if end_stream:
            self.on_end_stream(None)
