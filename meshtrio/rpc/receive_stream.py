"""Receiving the messages of a call, and taking turns with other calls."""

from __future__ import annotations

from collections.abc import Awaitable
from time import perf_counter

import purerpc
import trio

from meshtrio.grpc.framing import (
    IDENTITY,
    MESSAGE_PREFIX_SIZE,
    DecompressionError,
    MessageData,
    MessageTooLargeError,
    decompress,
)
from meshtrio.rpc.fairness import EventLoopShare
from meshtrio.rpc.peer_accounts import ConnectionAccount
from meshtrio.rpc.receive_buffer import MIN_CHARGED_SIZE, CompressedMessage, ReceiveBuffer
from meshtrio.rpc.stream_state import FIRST_CLOCK_CHECK
from meshtrio.rpc.tracer_dispatch import notify_tracer
from meshtrio.util.concurrency import SingleWaiter

_MAX_CLOCK_CHECK_INTERVAL = 256
"""Maximum number of messages between two readings of the clock."""


class ReceiveStream(ReceiveBuffer):
    """The receiving side of a `Stream`.

    Received messages are held until the call takes them, and only then may the peer send more,
    except for the rest of an incomplete message: at most one window and one message are held.
    """

    __slots__ = ()

    # -- messages ----------------------------------------------------------------------------

    async def receive(self) -> MessageData | None:
        """Take the next message; None after the last one.

        Raises:
            RpcFailedError: The stream failed; messages that arrived before are taken first.

        Cancellation: no message is lost.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        if self._is_turn_over:
            await self._wait_for_turn()
        received = self.try_receive()
        if received is not None:
            return received
        if self.taken_charge:
            self.charge_taken(0)
        if not await self._wait_for_message():
            return None
        if self.encoding != IDENTITY:
            await self._wait_to_decompress()
        if self.account is not None and self.account.peer_account.working:
            await self._wait_for_work_budget(self.account)
        return self._take_message()

    def try_receive(self) -> MessageData | None:
        """Take the next message if that needs no wait, as usual if one has arrived.

        Returns None, without effect, for what only `receive` handles. Not a checkpoint.
        """
        if (
            not self._messages
            or self._is_turn_over
            or self.encoding != IDENTITY
            or (self.account is not None and self.account.peer_account.working)
        ):
            return None
        return self._take_message()

    async def _wait_for_message(self) -> bool:
        """Wait for a message; return False if there are no more. Raises RpcFailedError."""
        while not self._messages and not self._parse_until_message():
            if self.error is not None:
                raise self.error
            if self.remote_closed:
                return False
            await self._wait_readable()
        return True

    def _take_message(self) -> MessageData:
        """Take the next message, and let the peer send more."""
        self._until_clock_check -= 1
        if not self._until_clock_check:
            self._check_clock()
        message = self._pop_message()
        is_large = self._taken_size * 2 >= self._connection.limits.stream_window
        may_open = not self.remote_closed and (is_large or self._reader is not None)
        if may_open and self.release_window():
            self._connection.flush()
        return self._decode_message(message)

    def _pop_message(self) -> MessageData:
        """Remove the next message from the queue, without decoding it."""
        messages = self._messages
        assert isinstance(messages, list)
        message = messages.pop(0)
        if not messages:
            self._messages = ()
        size = len(message) + MESSAGE_PREFIX_SIZE
        self._unread_size -= size
        self._taken_size += size
        self._connection.counters.messages_received += 1
        if self.received_charge and (
            not messages or self._charged_unread_size - self._unread_size > MIN_CHARGED_SIZE
        ):
            self._update_received_charge()
        return message

    async def receive_single(self) -> tuple[MessageData | None, int]:
        """Wait for the end of a call with a single reply; return the first reply and their number.

        More than one is the peer's error. Raises RpcFailedError if the stream failed.
        """
        connection = self._connection
        if len(connection.streams) == 1 and connection.can_poll:
            await connection.poll(self._should_end_poll)
        while not self.remote_closed and len(self._messages) < 2 and self.error is None:
            await self._wait_readable()
        if self.error is not None:
            raise self.error
        count = len(self._messages)
        return (self._decode_message(self._messages[0]) if self._messages else None), count

    def _should_end_poll(self) -> bool:
        """Whether the only reply has come, or the read loop should read for several calls."""
        is_over = self.remote_closed or self.error is not None
        return is_over or len(self._connection.streams) > 1

    def try_receive_single_request(self) -> MessageData | None:
        """Take the request of a method with a single one if it has arrived, as it usually has.

        Returns None, without effect, for what only `receive_single_request` handles.
        """
        account = self.account
        if (
            len(self._messages) == 1
            and self.remote_closed
            and self.error is None
            and self.encoding == IDENTITY
            and (account is None or not account.peer_account.working)
        ):
            return self._decode_message(self._pop_message())
        return None

    async def receive_single_request(self) -> MessageData:
        """Take the request of a method with a single one, once the client has ended its side.

        Raises RpcFailedError: UnimplementedError if there is not exactly one request
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
        if len(self._messages) != 1 or not self.remote_closed:
            number = "more than one request" if self._messages else "no request"
            raise purerpc.UnimplementedError(f"the call has {number}, and its method takes one")
        if self.encoding != IDENTITY:
            await self._wait_to_decompress()
        if self.account is not None and self.account.peer_account.working:
            await self._wait_for_work_budget(self.account)
        return self._decode_message(self._pop_message())

    def _await_end_stream(self) -> None:
        """Start the timeout for the client's END_STREAM, and open the window.

        A window that the request has filled would hide a second request.
        """
        self.is_awaiting_end_stream, self._incomplete_since = True, trio.current_time()
        connection = self._connection
        if connection.set_receive_window(self.id, connection.limits.stream_window):
            connection.flush()

    def _decode_message(self, message: MessageData) -> MessageData:
        """Decompress a message that is taken, and charge and trace it."""
        size = len(message)
        self.received_size += size
        self.last_message_compressed = False
        if type(message) is CompressedMessage:
            self.last_message_compressed = True
            message = self._decompress(message)
            self.charge_taken(len(message))
        elif size > MIN_CHARGED_SIZE:
            self.charge_taken(size)
        if self.message_tracer is not None:
            if type(message) is bytearray:
                message = bytes(message)  # Tracers may keep it.
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

    # -- waiting -----------------------------------------------------------------------------

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
        assert self._messages
        message = self._messages[0]
        if isinstance(message, CompressedMessage) or len(message) > MIN_CHARGED_SIZE:
            await account.wait_for_work_budget()
            self._check_not_discarded()

    @property
    def _loop_share(self) -> EventLoopShare:
        account = self.account
        return self._connection.loop_share if account is None else account.peer_account.loop_share

    def _check_clock(self) -> None:
        """Determine whether the turn of the call's task is over, and when to do so next.

        A handler whose peer is as fast as itself would never wait otherwise. The clock is read
        after as many messages as may take a time slice, at the pace of the last ones.
        """
        now, time_slice = perf_counter(), self._loop_share.time_slice
        checked_at, self._clock_checked_at = self._clock_checked_at, now
        interval = float(FIRST_CLOCK_CHECK)
        if checked_at:
            worked = now - checked_at
            self._is_turn_over = worked >= time_slice / 2
            interval = min(
                self._clock_check_interval * time_slice / max(worked, 1e-9),
                FIRST_CLOCK_CHECK * self._clock_check_interval,
                _MAX_CLOCK_CHECK_INTERVAL,
            )
        self._until_clock_check = self._clock_check_interval = max(int(interval), 1)

    def _restart_turn(self) -> None:
        """Begin another turn, as the call's task is going to wait."""
        self._clock_checked_at, self._until_clock_check = 0.0, FIRST_CLOCK_CHECK
        self._is_turn_over = False

    async def _wait_for_turn(self) -> None:
        self._is_turn_over = False
        await self._loop_share.wait_for_turn()
        self._clock_checked_at = perf_counter()

    def _wait_readable(self) -> Awaitable[object]:
        """Return what waits until there is something to receive, to be awaited at once."""
        if self._readable is None:
            self._readable = SingleWaiter()
        self._restart_turn()
        return self._readable.wait()
