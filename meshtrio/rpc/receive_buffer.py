"""The messages that a stream has received and its call has not taken, and their charges."""

from __future__ import annotations

from collections import deque

import purerpc
import trio

from meshtrio.grpc.framing import (
    IDENTITY,
    MESSAGE_PREFIX_SIZE,
    MessageData,
    MessageReader,
    Messages,
    MessageTooLargeError,
)
from meshtrio.rpc.peer_accounts import ConnectionAccount
from meshtrio.rpc.stream_state import StreamState
from meshtrio.util.message_buffers import MESSAGE_BUFFERS

MIN_CHARGED_SIZE = 1024
"""Size of a message, in bytes, up to which it is not charged: every call costs as much."""
_COPIES_PER_REPLY = 2
"""Number of copies of a reply that waits: its bytes, and the object they were made from."""
_MAX_PARSED_MESSAGES = 256
"""Number of waiting messages from which on DATA is kept unparsed."""
_MESSAGE_OVERHEAD = 48
"""Size of an object without its content, in bytes."""
_CHUNK_SIZE = 16 * 1024
"""Maximum size of DATA that is parsed at once, in bytes: up to 3,276 messages, about 0.5 ms."""


class CompressedMessage(bytes):
    """A received message that is still compressed."""

    __slots__ = ()


class ReceiveBuffer(StreamState):
    """Parses DATA into messages, and charges an account for what the stream holds while it is open.

    A base class of `Stream` instead of a member, which would cost an allocation for each call. A
    message that arrives alone in a DATA frame, as nearly all do, needs no reader. DATA with very
    many messages is parsed as they are taken: an empty message takes 5 bytes of DATA, and ten times
    as much as an object.

    Received bytes are charged as received until the handler takes them, and then as working until
    it takes the next message or ends. Sent bytes are charged as working while the peer does not
    read them. A client has no account.
    """

    __slots__ = ()

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
        return self.error is not None or (self.remote_closed and self._connection.is_client)

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

    def _queue_message(self, message: MessageData) -> None:
        if self._messages:
            self._messages.append(message)
        else:
            self._messages = [message]
        self._unread_size += len(message) + MESSAGE_PREFIX_SIZE

    def open_buffer(self, max_size: int) -> memoryview | None:
        """Return memory of a large message to receive its next bytes into, at most `max_size`.

        They are to be passed to `on_data` before any other DATA. Returns None if there is no such
        message, or no memory is reserved for it.
        """
        reader = self._reader
        if reader is None or self._unparsed or self.error is not None:
            return None
        if self.account is not None and not self.has_reservation:
            return None
        return reader.open_buffer(max_size)

    def _queue_data(self, data: bytes | memoryview) -> None:
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

    def _queue_unparsed(self, data: bytes | memoryview) -> None:
        self._unread_size += len(data)
        if not isinstance(self._unparsed, deque):
            self._unparsed = deque()
        chunks = (data[i : i + _CHUNK_SIZE] for i in range(0, len(data), _CHUNK_SIZE))
        self._unparsed += map(bytes, chunks)

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

    def _parse_data(self, data: bytes | memoryview) -> None:
        """Parse DATA whose frames do not coincide with messages."""
        if self._reader is None:
            max_size = self.message_limits.max_receive_length
            self._reader = MessageReader(max_size, MESSAGE_BUFFERS.take)
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

    def _queue_messages(self, messages: Messages) -> None:
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

    def charge_to(self, account: ConnectionAccount) -> None:
        """Charge another account than the connection's, before anything was charged."""
        if self.account is not None:
            self.account.peer_account.active_calls -= 1
        account.peer_account.active_calls += 1
        self.account = account

    def release_charges(self) -> None:
        """Release all charges: the stream is closed."""
        account, self.account = self.account, None
        if account is None:
            return
        account.peer_account.active_calls -= 1
        working = self.taken_charge + self.sending_charge
        if not (working or self.received_charge or self.has_reservation or self.has_large_message):
            return
        # Without waiting for the garbage collector: an exception and its traceback are a cycle.
        self.discard_received()
        self.taken_charge = self.sending_charge = 0
        account.peer_account.large_messages -= self.has_reservation + self.has_large_message
        self.has_reservation = self.has_large_message = False
        account.peer_account.reservation_waiters.pop(self, None)
        if self.received_charge:
            account.add_received(-self.received_charge, -self.reserved_charge)
            self.reserved_charge = 0
        account.add_working(-working)
        account.peer_account.wake_waiters()

    def charge_received(self, size: int) -> str:
        """Set the charge for waiting messages; describe the budget it exceeds, "" for none."""
        account, change = self.account, size - self.received_charge
        reserved = size if self.has_reservation or self.has_large_message else 0
        if account is None or not (change or reserved != self.reserved_charge):
            return ""
        account.add_received(change, reserved - self.reserved_charge)
        self.received_charge, self.reserved_charge = size, reserved
        return account.exceeded_receive_budget() if change > 0 else ""

    def charge_taken(self, size: int) -> None:
        """Set the charge for the message that the handler has taken; 0 releases it."""
        if self.account is not None and (size > MIN_CHARGED_SIZE or not size):
            self.account.add_working(size - self.taken_charge)
            self.taken_charge = size

    def charge_sending(self, size: int) -> None:
        """Set the charge for data that the call is going to send."""
        change = _COPIES_PER_REPLY * size - self.sending_charge
        if self.account is not None and change:
            self.sending_charge += change
            self.account.add_working(change)

    def charge_blocked_send(self, size: int) -> None:
        """Charge data that waits until the peer reads.

        Raises ResourceExhaustedError if it exceeds a budget, and is not that of the only call.
        """
        account = self.account
        if account is None or size <= MIN_CHARGED_SIZE:
            return
        self.charge_sending(size)
        budget = account.exceeded_work_budget(fraction=1.0)
        if budget and account.peer_account.working > self.sending_charge + self.taken_charge:
            self.charge_sending(0)
            text = f"replies that the caller has not read exceed {budget}"
            raise purerpc.ResourceExhaustedError(text)

    def discard_received(self) -> None:
        """Discard the messages that were not taken."""
        self._messages = self._unparsed = ()
        self._reader, self._unread_size = None, 0

    def _update_received_charge(self) -> None:
        """Charge the waiting messages; fail the call if they exceed a budget.

        A message for which room was reserved does not fail it.
        """
        reader, self._charged_unread_size = self._reader, self._unread_size
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

    # -- large messages ----------------------------------------------------------------------

    def release_window(self) -> bool:
        """Open the window for what may be received now, and return whether a flush is due.

        That is one window without the waiting messages and, if none waits, the rest of an
        incomplete message. All DATA that the engine has counted must have been passed to `on_data`.
        """
        window, reader = self._connection.limits.stream_window, self._reader
        if reader is None and self._taken_size * 2 < window:
            return False  # The increase would be too small to be sent.
        room = max(window - self._unread_size, 0)
        if reader is not None:
            if reader.framed_size <= window or self.has_reservation:
                room += 0 if self._has_messages else reader.missing_size
            elif not self._has_messages and self._try_reserve(reader):
                room += reader.missing_size
            else:
                room = max(room - reader.buffered_size, 0)
        self._taken_size = 0
        return self._connection.set_receive_window(self.id, room)

    def _try_reserve(self, reader: MessageReader) -> bool:
        """Reserve room for a message that does not fit into the window; return whether it has it.

        Without room, `retry_reservation` is called when there may be some. The only large message
        of a peer always gets room, so that it may be larger than the budget.
        """
        account = self.account
        if account is None or self.has_reservation:
            return True
        peer_account = account.peer_account
        if peer_account.large_messages and (
            account.exceeded_reservation_budget(reader.framed_size)
            or account.exceeded_work_budget()
        ):
            peer_account.reservation_waiters[self] = None
            return False
        self.has_reservation = True
        peer_account.large_messages += 1
        self._update_received_charge()
        return self.has_reservation

    def complete_reservation(self) -> None:
        """Note that the large message is complete, or that the call has failed."""
        if self.account is not None and self.has_reservation:
            self.has_reservation = False
            self.account.peer_account.large_messages -= self.has_large_message
            self.has_large_message = True

    def release_reservation(self) -> None:
        """Release the reservation: all large messages were taken."""
        if self.account is not None and self.has_large_message:
            self.has_large_message = False
            self.account.add_received(0, -self.reserved_charge)
            self.reserved_charge = 0
            self.account.peer_account.large_messages -= 1
            self.account.peer_account.wake_waiters()

    def retry_reservation(self) -> bool:
        """Let the rest of a large message arrive; return False if there is still no room."""
        if self.account is None or self.error is not None or self._reader is None:
            return True
        if not self._try_reserve(self._reader):
            return False
        if self.release_window():
            self._connection.flush()
        return True
