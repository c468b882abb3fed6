"""The messages that a stream has received and its call has not taken yet."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

import attrs
import purerpc
import trio

from meshtrio.grpc.compression import IDENTITY
from meshtrio.grpc.framing import MESSAGE_PREFIX_SIZE, MessageReader, MessageTooLargeError
from meshtrio.grpc.headers import Trailers
from meshtrio.rpc.accounted_stream import AccountedStream
from meshtrio.rpc.message_limits import MessageLimits

_MAX_PARSED_MESSAGES = 256
"""Number of waiting messages from which on DATA is kept unparsed."""
_MESSAGE_OVERHEAD = 48
"""Size of an object without its content, in bytes."""
_CHUNK_SIZE = 16 * 1024
"""Maximum size of DATA that is parsed at once, in bytes: up to 3,276 messages, about 0.5 ms."""


class CompressedMessage(bytes):
    """A received message that is still compressed."""

    __slots__ = ()


@attrs.define(eq=False, repr=False, kw_only=True, weakref_slot=False)
class ReceiveBuffer(AccountedStream):
    """Parses DATA into messages, and charges them until they are taken.

    A base class of `Stream` instead of a member, which would cost an allocation for each call. A
    message that arrives alone in a DATA frame, as nearly all do, needs no reader. DATA with very
    many messages is parsed as they are taken: an empty message takes 5 bytes of DATA, and ten times
    as much as an object.
    """

    message_limits: MessageLimits = attrs.field(init=False)
    """The size limits of messages; a call with limits of its own sets them when it starts."""
    encoding: str = IDENTITY
    """The encoding of the peer's compressed messages."""
    trailers: Trailers | None = None
    """The trailers of the response, on a client."""
    remote_closed: bool = False
    """Whether the peer has ended its side (END_STREAM)."""
    error: purerpc.RpcFailedError | None = None
    """The error that ended the stream early."""
    is_awaiting_end_stream: bool = False
    """Whether a server has the only request of a call and waits for the client's END_STREAM."""
    # A deque exists only while it holds something: an empty one is larger than the rest.
    _messages: deque[bytes] | tuple[()] = ()
    _unparsed: deque[bytes] | tuple[()] = ()
    _unread_size: int = 0
    """Size of the waiting messages and of unparsed DATA, in bytes."""
    _incomplete_since: float = 0.0
    _reader: MessageReader | None = None
    """Made for the first DATA that is not exactly one message."""

    @property
    def incomplete_since(self) -> float | None:
        """The time since which a message or END_STREAM is awaited; None if neither is."""
        is_incomplete = self.is_awaiting_end_stream or (
            self._reader is not None and self._reader.has_partial_message and not self._unparsed
        )
        return self._incomplete_since if is_incomplete else None

    @property
    def _has_messages(self) -> bool:
        return bool(self._messages or self._unparsed)

    @property
    def _has_second_message(self) -> bool:
        """Whether a second message has arrived, or its beginning."""
        reader, count = self._reader, len(self._messages)
        return count > 1 or (count == 1 and reader is not None and reader.has_partial_message)

    @property
    def send_closed(self) -> bool:
        """Whether messages are dropped: the stream failed, or its server has responded."""
        raise NotImplementedError

    def fail(self, error: purerpc.RpcFailedError) -> None:
        """End the stream early; an error after the first one is ignored."""
        raise NotImplementedError

    def _fail_receive(self, error: purerpc.RpcFailedError) -> None:
        """Fail because of what was received; the stream may have ended meanwhile."""
        if self.send_closed and self.error is None:
            self.error = error
        else:
            self.fail(error)

    # -- parsing -----------------------------------------------------------------------------

    def _queue_message(self, message: bytes) -> None:
        if isinstance(self._messages, deque):
            self._messages.append(message)
        else:
            self._messages = deque((message,))
        self._unread_size += len(message) + MESSAGE_PREFIX_SIZE

    def _queue_data(self, data: bytes) -> None:
        """Queue DATA that is not exactly one message: parsed now, or later if there is much."""
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
        """Parse queued DATA until there is a message; return whether there is one."""
        while self._unparsed and not self._messages:
            self._parse_next_chunk()
        return bool(self._messages)

    def _parse_next_chunk(self) -> None:
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
        """Parse DATA whose frames do not coincide with messages."""
        if self._reader is None:
            self._reader = MessageReader(self.message_limits.max_receive_length)
        if not self._reader.has_partial_message:
            self._incomplete_since = trio.current_time()
        count = len(self._messages)
        try:
            self._queue_messages(self._reader.feed(data))
        except MessageTooLargeError as exc:
            self._queue_messages(exc.complete_messages)
            self._fail_receive(self.message_limits.too_large_error(exc.length))
        if len(self._messages) > count:
            self._incomplete_since = trio.current_time()
            if self.has_reservation:
                self.complete_reservation()

    def _queue_messages(self, messages: Sequence[tuple[bool, bytes]]) -> None:
        for compressed, message in messages:
            if compressed and self.encoding == IDENTITY:
                text = "a message is compressed, but grpc-encoding names no compression"
                self._fail_receive(purerpc.InternalError(text))
                return
            self._queue_message(CompressedMessage(message) if compressed else message)

    def _check_message_complete(self) -> None:
        """Fail if the stream has ended within a message, unless its status is an error anyway."""
        if self._unparsed or self._reader is None or not self._reader.has_partial_message:
            return
        if self.trailers is None or self.trailers.code == 0:
            text = "the stream ended in the middle of a message"
            self._fail_receive(purerpc.InternalError(text))

    # -- memory ------------------------------------------------------------------------------

    def discard_received(self) -> None:
        self._messages = self._unparsed = ()
        self._reader, self._unread_size = None, 0

    def _update_received_charge(self) -> None:
        """Charge the waiting messages; fail the call if they exceed a budget.

        A message for which room was reserved does not fail it.
        """
        reader = self._reader
        incomplete_size = 0
        if reader is not None:
            incomplete_size = reader.framed_size if self.has_reservation else reader.buffered_size
        size = self._unread_size + _MESSAGE_OVERHEAD * len(self._messages) + incomplete_size
        budget = self.charge_received(size)
        if budget and not (self.has_reservation or self.has_large_message):
            self.discard_received()
            self.charge_received(0)
            text = f"received messages that the handler has not taken exceed {budget}"
            self.fail(purerpc.ResourceExhaustedError(text))
        elif self.has_large_message and not self._has_messages:
            self.release_reservation()

    def _try_reserve(self, reader: MessageReader) -> bool:
        """Reserve room for a message larger than the window; return whether it has room."""
        if self.has_reservation or self.account is None:
            return True
        if self.reserve(reader.framed_size):
            self._update_received_charge()
        return self.has_reservation
