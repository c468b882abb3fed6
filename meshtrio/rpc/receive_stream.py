"""Receiving the messages of a call, and taking turns with other calls."""

from __future__ import annotations

from collections import deque
from time import perf_counter

import purerpc
import trio

from meshtrio.grpc.framing import (
    IDENTITY,
    MESSAGE_PREFIX_SIZE,
    DecompressionError,
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
            self.charge_taken(0)
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
        """Wait for the end of a call with a single reply; return the first reply and their number.

        More than one is the peer's error. Raises RpcFailedError if the stream failed.
        """
        while not self.remote_closed and len(self._messages) < 2 and self.error is None:
            await self._wait_readable()
        if self.error is not None:
            raise self.error
        count = len(self._messages)
        return (self._decode_message(self._messages[0]) if self._messages else None), count

    async def receive_single_request(self) -> bytes:
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
        assert isinstance(self._messages, deque)
        message = self._messages[0]
        if isinstance(message, CompressedMessage) or len(message) > MIN_CHARGED_SIZE:
            await account.wait_for_work_budget()
            self._check_not_discarded()

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
        self._clock_checked_at, self._until_clock_check = 0.0, FIRST_CLOCK_CHECK
        await self._readable.wait()
