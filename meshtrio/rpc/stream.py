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
from meshtrio.rpc.accounts import Ledger
from meshtrio.rpc.counted import LITTLE, CountedCall
from meshtrio.rpc.fairness import WAKE_COST, Share
from meshtrio.rpc.peer import Peer
from meshtrio.rpc.tracing import notify, notify_in_read_loop
from meshtrio.rpc.waiter import Waiter
from meshtrio.wire.compression import (
    ENCODINGS,
    IDENTITY,
    MalformedMessage,
    compress,
    decompress,
)
from meshtrio.wire.errors import ErrorCode, MessageTooLarge
from meshtrio.wire.grpc import PREFIX_SIZE, MessageReader, message_prefix, whole_message
from meshtrio.wire.heads import ResponseHead, Trailers

if TYPE_CHECKING:
    from meshtrio.rpc.connection import Connection
    from meshtrio.rpc.observe import MessageWatch

_LARGE = 32 * 1024
"""Bytes of a message from which a copy costs more than a frame."""
_MANY = 256
"""Messages of a stream that wait to be taken, from which on DATA is kept as it comes."""
_MESSAGE_COST = 48
"""Bytes that an object takes beyond its content."""
_FIRST_LOOK = 4
"""Messages that a task may handle after it has waited before the clock is looked at."""
_MAX_PACE = 256
_PIECE = 16 * 1024
"""Bytes of DATA that are cut into messages at once: up to 3,276 messages, for some 0.5 ms."""


STOPPED = "the server stopped during the call"
"""Why a call fails that a server cuts."""


class Compressed(bytes):
    """A message that is still as its encoding made it."""

    __slots__ = ()


class Stream(CountedCall):
    """Messages in, messages out, and how it ended.

    Received messages are held until they are taken, and the peer may send more only then, but for
    the rest of a message under way: what can be held is one window and one message. One task may
    receive while another sends.
    """

    __slots__ = (
        "_begun",
        "_connection",
        "_looked_at",
        "_messages",
        "_pace",
        "_readable",
        "_reader",
        "_uncut",
        "_unread",
        "_until_look",
        "_writable",
        "awaits_end",
        "compressed",
        "encoding",
        "ended",
        "failure",
        "head",
        "head_sent",
        "id",
        "message_limits",
        "on_failure",
        "owner",
        "path",
        "received_size",
        "sent_size",
        "trailers",
        "watch",
    )

    sends_at_once = False
    """Whether `on_window` sends, instead of waking a task that does."""

    def __init__(self, connection: Connection, stream_id: int) -> None:
        self.id = stream_id
        self.message_limits = connection.message_limits
        """Of its messages; a call that has limits of its own sets them when it starts."""
        self.head: ResponseHead | None = None
        self.head_sent = False
        """On a server: the head of the response has gone out, so trailers must follow it."""
        self.trailers: Trailers | None = None
        self.owner: object = None
        """On a client: the channel whose call it is."""
        self.path = ""
        """What was called: on a server, and on a client where the call is followed."""
        self.encoding = IDENTITY
        """What the peer's compressed messages are compressed with."""
        self.compressed = False
        """Whether the message that was taken last had been compressed."""
        self.sent_size = self.received_size = 0
        """Bytes of its messages, as they are on the wire, without framing."""
        self.watch: MessageWatch | None = None
        """Whoever wants to know of each message."""
        self.ended = False
        """The peer will send nothing more, and said so."""
        self.failure: purerpc.RpcFailedError | None = None
        """Why the stream ended before its time."""
        self.on_failure: trio.CancelScope | None = None
        """Cancelled when the stream fails: the scope of the handler on a server."""
        self._connection = connection
        self.ledger = connection.ledger
        """On a server, while the stream is open: the memory it uses counts there."""
        if self.ledger is not None:
            self.ledger.account.calls += 1
        self.received_charge = self.taken_charge = self.sending_charge = 0
        """Bytes counted there: that wait to be taken, that the handler works with, to be sent."""
        self.is_reserved = self.holds_large = False
        self._messages: deque[bytes] | tuple[()] = ()
        """A deque only while it holds something: an empty one is larger than all the rest."""
        self._unread = 0
        """Bytes of the messages that wait to be taken."""
        self._uncut: deque[bytes] | tuple[()] = ()
        """DATA of very many messages, which is cut into messages as they are taken."""
        self._until_look = _FIRST_LOOK
        """Messages until the clock is looked at to see if the call's task has worked for long."""
        self._pace = 1
        """Messages from the last look at the clock to the next."""
        self._looked_at = 0.0
        """When that was; 0 if the task has waited since."""
        self._begun = 0.0
        self.awaits_end = False
        """On a server: the one request of a call is here, and the client has not ended its side."""
        self._reader: MessageReader | None = None
        """Made for the first DATA that is not just one whole message."""
        self._readable: Waiter | None = None
        self._writable: Waiter | None = None
        """Both are made when something first waits: most requests come whole, and go at once."""

    @property
    def peer(self) -> Peer:
        return self._connection.peer

    @property
    def lost(self) -> bool:
        """The other side has reset it, or is gone: nothing can be told there any more."""
        return self.failure is not None and self.id not in self._connection.streams

    @property
    def over(self) -> bool:
        """Nothing that is sent matters any more: the stream failed, or its server has answered."""
        return self.failure is not None or (self.ended and self._connection.is_client)

    # -- for the call: messages --------------------------------------------------------------

    async def receive(self) -> bytes | None:
        """Take the next message, None after the last. Cancellable, and then nothing is lost.

        Raises the status the stream failed with, once the messages before it are taken.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        if self._messages:
            self._until_look -= 1
            if not self._until_look and self._slice_is_over():
                await self._wait_for_turn()
        if self.taken_charge:
            self.let_go()
        while not self._messages and not self._cut_more():
            if self.failure is not None:
                raise self.failure
            if self.ended:
                return None
            await self._news()
        if self.encoding != IDENTITY:
            await self._wait_to_decompress()
        if self.ledger is not None and self.ledger.account.working:
            await self._wait_to_work(self.ledger)
        message = self._take()
        if not self.ended and self.allow_more():
            self._connection.flush()
        return self._decoded(message)

    def _take(self) -> bytes:
        """Take the next message as it was received."""
        assert isinstance(self._messages, deque)
        message = self._messages.popleft()
        if not self._messages:
            self._messages = ()
        self._unread -= len(message) + PREFIX_SIZE
        self._connection.tally.received += 1
        if self.received_charge:
            self._count_received()
        return message

    async def receive_only(self) -> tuple[bytes | None, int]:
        """Wait for the end of a call that has but one reply; give it, and how many there were.

        A second one is the peer's error, and is not waited past. Raises the status the stream
        failed with.
        """
        while not self.ended and len(self._messages) < 2 and self.failure is None:
            await self._news()
        if self.failure is not None:
            raise self.failure
        count = len(self._messages)
        return (self._decoded(self._messages[0]) if self._messages else None), count

    async def receive_request(self) -> bytes:
        """On a server: take the request of a method that has one, once the client has ended.

        Raises the status the stream failed with, UnimplementedError for another number of requests
        than one (statuscodes.md, "Request cardinality violation").
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        while not self.ended and self.failure is None and not self._has_too_many:
            if self._messages and not self.awaits_end:
                self._await_end()
            await self._news()
        self.awaits_end = False
        if self.failure is not None:
            raise self.failure
        if not isinstance(self._messages, deque) or len(self._messages) > 1 or not self.ended:
            number = "more than one request" if self._messages else "no request"
            raise purerpc.UnimplementedError(f"the call has {number}, and its method takes one")
        if self.encoding != IDENTITY:
            await self._wait_to_decompress()
        if self.ledger is not None and self.ledger.account.working:
            await self._wait_to_work(self.ledger)
        message, self._messages = self._messages[0], ()
        self._unread -= len(message) + PREFIX_SIZE
        self._connection.tally.received += 1
        if self.received_charge:
            self._count_received()
        return self._decoded(message)

    @property
    def _has_more(self) -> bool:
        """Messages wait to be taken."""
        return bool(self._messages or self._uncut)

    @property
    def _has_too_many(self) -> bool:
        """More than one message has come, or begun."""
        count = len(self._messages)
        return count > 1 or (count == 1 and self._reader is not None and self._reader.partial)

    def _await_end(self) -> None:
        """Limit how long the client may take to end its side, and let it show what it still sends:
        a window that the request has filled would hide a second one."""
        self.awaits_end, self._begun = True, trio.current_time()
        connection = self._connection
        if connection.engine.allow(self.id, connection.limits.stream_window):
            connection.flush()

    def _decoded(self, message: bytes) -> bytes:
        """A message that is taken, as it was before its encoding."""
        size = len(message)
        self.received_size += size
        self.compressed = isinstance(message, Compressed)
        if self.compressed:
            message = self._decompressed(message)
        if size > LITTLE or self.compressed:
            self.count_taken(len(message))
        if self.watch is not None:
            notify(self.path, self.watch.received, message, size)
            if self.ended and not self._has_more and not self._connection.is_client:
                notify(self.path, self.watch.received_all)
        return message

    def _decompressed(self, message: bytes) -> bytes:
        began = perf_counter()
        try:
            return decompress(message, self.message_limits.receive)
        except MessageTooLarge as exc:
            raise self.message_limits.received(exc.length, at_least=True) from None
        except MalformedMessage as exc:
            raise purerpc.InternalError(f"received a message that is {exc}") from None
        finally:
            self._share.charge(perf_counter() - began)

    async def send(
        self,
        message: bytes,
        *,
        compressed: bool = False,
        head: bytes = b"",
        end_stream: bool = False,
        trailers: bytes = b"",
    ) -> None:
        """Send a message: after a head, if given, and before this side's end, bare or as trailers.

        Waits for the peer's window and for the socket. Raises the status the stream failed with;
        a client's message to a server that has answered already is dropped.
        When cancelled the message may be half sent, so the stream has to be reset.
        """
        connection = self._connection
        if len(message) > self.message_limits.send:
            self.message_limits.check_send(len(message))
        encoded = compress(message) if compressed else message
        size = len(encoded)
        self.sent_size += size
        if self.watch is not None:
            notify(self.path, self.watch.sent, message, size)
            if end_stream:
                notify(self.path, self.watch.sent_all)
        data = message_prefix(size, compressed=compressed)
        if size > _LARGE:
            # A frame of its own for the prefix, which saves copying the message behind it.
            await self.send_bytes(data, head=head, following=size)
            data, head = encoded, b""
        else:
            data += encoded
        await self.send_bytes(data, head=head, end_stream=end_stream, trailers=trailers)
        if not end_stream:
            connection.tally.sent += 1
            self._until_look -= 1
            if not self._until_look and self._slice_is_over():
                await self._wait_for_turn()

    async def send_bytes(
        self,
        data: bytes,
        *,
        head: bytes = b"",
        end_stream: bool = False,
        trailers: bytes = b"",
        following: int = 0,
    ) -> None:
        """The same as `send`, for DATA as it is; `following`: bytes that the caller has to send
        after it."""
        await trio.lowlevel.checkpoint_if_cancelled()
        connection = self._connection
        if self.sending_charge:
            self.expect_to_send(0)
        if connection.outbox.congested:
            self.hold_back(len(data) + following)
            await connection.outbox.uncongested()
        left: bytes | memoryview = data
        if head and not self._check_over():
            self.head_sent = True
            connection.engine.send_headers(self.id, head)
        while not self._check_over():
            taken = connection.engine.send_data(self.id, left, end_stream=end_stream)
            if taken == len(left):
                break
            left = memoryview(left)[taken:]
            connection.flush()
            connection.await_window(self)
            self.hold_back(len(left) + following)
            await self._window()
            if self._share.charge(WAKE_COST):
                await self._share.turn()
        if connection.window_waiters:
            connection.wake_next_sender(self)
        if trailers and not self.over:
            connection.engine.send_headers(self.id, trailers, end_stream=True)
        connection.flush()

    async def _wait_to_decompress(self) -> None:
        """Wait for a turn before a compressed message is taken, if the peer has had so many, or so
        large ones, that they have used up its time."""
        share = self._share
        if share.left < 0 and share.charge(0.0):
            await share.turn()
            self._check_still_there()

    def _check_still_there(self) -> None:
        """Raise what the stream failed with if its messages were dropped meanwhile."""
        if not self._messages:
            assert self.failure is not None
            raise self.failure

    async def _wait_to_work(self, ledger: Ledger) -> None:
        """Wait before a message is taken that is not small, until others have let go of enough."""
        assert isinstance(self._messages, deque)
        message = self._messages[0]
        if isinstance(message, Compressed) or len(message) > LITTLE:
            await ledger.wait_to_work()
            self._check_still_there()

    def _count_received(self) -> None:
        """Count what waits to be taken. Fails the call if the peer makes this side hold too much,
        except for a message that room was reserved for."""
        reader = self._reader
        partial = 0 if reader is None else reader.size if self.is_reserved else reader.held
        size = self._unread + _MESSAGE_COST * len(self._messages) + partial
        budget = self.count_received(size)
        if budget and not (self.is_reserved or self.holds_large):
            self.drop_received()
            self.count_received(0)
            text = f"what was received and not processed yet uses up {budget}"
            self.fail(purerpc.ResourceExhaustedError(text))
        elif self.holds_large and not self._has_more:
            self.end_holding()

    def drop_received(self) -> None:
        """Forget what no handler has taken."""
        self._messages = self._uncut = ()
        self._reader, self._unread = None, 0

    def _reserves(self, reader: MessageReader) -> bool:
        """Whether the rest of a message may be received, which does not fit into the window."""
        if self.is_reserved or self.ledger is None:
            return True
        if self.reserve(reader.size):
            self._count_received()
        return self.is_reserved

    def retry_reservation(self) -> bool:
        """Let the rest of a message come if there is room for it now; false if there is not."""
        if self.ledger is None or self.failure is not None or self._reader is None:
            return True
        if not self._reserves(self._reader):
            return False
        if self.allow_more():
            self._connection.flush()
        return True

    @property
    def _share(self) -> Share:
        ledger = self.ledger
        return self._connection.share if ledger is None else ledger.account.share

    def _slice_is_over(self) -> bool:
        """Whether the call's task has to let others work before it goes on.

        A handler whose peer reads, or writes, as fast as it does would never wait otherwise. The
        clock is looked at each time that so many messages have come as may take a slice, at the
        pace of the last ones.
        """
        now, slice_ = perf_counter(), self._share.slice
        looked, self._looked_at = self._looked_at, now
        if not looked:
            self._until_look = self._pace = 1
            return False
        worked = now - looked
        pace = min(self._pace * slice_ / max(worked, 1e-9), 2 * self._pace, _MAX_PACE)
        self._until_look = self._pace = max(int(pace), 1)
        return worked >= slice_ / 2

    async def _wait_for_turn(self) -> None:
        await self._share.turn()
        self._looked_at = perf_counter()

    async def _news(self) -> None:
        if self._readable is None:
            self._readable = Waiter()
        self._looked_at, self._until_look = 0.0, _FIRST_LOOK
        await self._readable.wait()

    async def _window(self) -> None:
        if self._writable is None:
            self._writable = Waiter()
        self._looked_at, self._until_look = 0.0, _FIRST_LOOK
        await self._writable.wait()

    async def send_end(self) -> None:
        """End this side without a further message. Does nothing where it has ended already."""
        await trio.lowlevel.checkpoint_if_cancelled()
        if not self.over and self._connection.engine.can_send(self.id):
            self._connection.engine.send_data(self.id, b"", end_stream=True)
            self._connection.flush()
            if self.watch is not None:
                notify(self.path, self.watch.sent_all)

    def _check_over(self) -> bool:
        if self.failure is not None:
            raise self.failure
        if not self.over and not self._connection.engine.can_send(self.id):
            raise UsageError(
                "this side of the call was ended already; nothing can be sent after it"
            )
        return self.over

    def reset(self, code: ErrorCode) -> None:
        """End the stream at once, in both directions; never blocks, and may be repeated."""
        self._connection.forget(self, code)
        if not self.ended and self.failure is None:
            self.fail(purerpc.CancelledError("the call was cancelled on this side"))

    def allow_more(self) -> bool:
        """Let the peer fill the window again, less what waits to be taken here; where nothing
        does, let it finish the message under way at once. True where that is to be flushed.

        Only called when all DATA that the engine has counted has been handed on to the stream.
        """
        window, reader = self._connection.limits.stream_window, self._reader
        room = max(window - self._unread, 0)
        if reader is not None:
            if reader.size <= window or self.is_reserved:
                room += 0 if self._has_more else reader.missing
            elif not self._has_more and self._reserves(reader):
                room += reader.missing
            else:
                room = max(room - reader.held, 0)
        return self._connection.engine.allow(self.id, room)

    # -- for the connection: what the peer did -----------------------------------------------

    def on_head(self, head: ResponseHead) -> None:
        """On a client: the head of a response that goes on."""
        if head.encoding not in ENCODINGS:
            text = f"the peer answered in encoding {head.encoding!r}"
            self.fail(purerpc.InternalError(text))
        self.encoding = head.encoding
        if self.watch is not None:
            notify_in_read_loop(self.path, self.watch.answered, head)

    def on_data(self, data: bytes, end_stream: bool) -> None:
        if self.failure is not None:
            return
        message = None
        if self._reader is None and not self._uncut:
            message = whole_message(data, self.message_limits.receive)
        if message is None:
            self._keep_pieces(data)
        else:
            self._keep(message)
            if self._unread > LITTLE:
                self._count_received()
        if end_stream:
            self.on_end(None)
        self._wake_reader()

    def _wake_reader(self) -> None:
        if self._readable is not None:
            self._readable.wake()

    def _keep(self, message: bytes) -> None:
        if isinstance(self._messages, deque):
            self._messages.append(message)
        else:
            self._messages = deque((message,))
        self._unread += len(message) + PREFIX_SIZE

    @property
    def partial_since(self) -> float | None:
        """When the message or the wait was begun that is not over yet; None where there is none."""
        partial = self.awaits_end or (
            self._reader is not None and self._reader.partial and not self._uncut
        )
        return self._begun if partial else None

    def _keep_pieces(self, data: bytes) -> None:
        """Keep DATA that is not just one whole message: cut now, or later if there is much."""
        reader = self._reader
        if self._uncut or len(self._messages) >= _MANY:
            self._keep_uncut(data)
        elif len(data) <= _PIECE or (reader is not None and reader.missing >= len(data)):
            self._assemble(data)
        else:
            self._keep_uncut(data)
            while self._uncut and len(self._messages) < _MANY:
                self._cut_next()
        self._count_received()

    def _keep_uncut(self, data: bytes) -> None:
        self._unread += len(data)
        if not isinstance(self._uncut, deque):
            self._uncut = deque()
        self._uncut += [data[i : i + _PIECE] for i in range(0, len(data), _PIECE)]

    def _cut_more(self) -> bool:
        """Cut DATA that was kept until there is a message; false if there is none."""
        while self._uncut and not self._messages:
            self._cut_next()
        return bool(self._messages)

    def _cut_next(self) -> None:
        """Cut DATA that was kept as it came, once all messages before it were taken."""
        assert isinstance(self._uncut, deque)
        data = self._uncut.popleft()
        self._unread -= len(data)
        if not self._uncut:
            self._uncut = ()
        if self.failure is None:
            self._assemble(data)
            if self.ended:
                self._check_complete()

    def _assemble(self, data: bytes) -> None:
        """Take DATA whose frames and messages do not coincide."""
        if self._reader is None:
            self._reader = MessageReader(self.message_limits.receive)
        if not self._reader.partial:
            self._begun = trio.current_time()
        whole = len(self._messages)
        try:
            self._keep_all(self._reader.feed(data))
        except MessageTooLarge as exc:
            self._keep_all(exc.complete)
            self._fail_message(self.message_limits.received(exc.length))
        if len(self._messages) > whole:
            self._begun = trio.current_time()
            if self.is_reserved:
                self.end_reservation()

    def _keep_all(self, messages: Sequence[tuple[bool, bytes]]) -> None:
        for compressed, message in messages:
            if compressed and self.encoding == IDENTITY:
                error = purerpc.InternalError("a message was compressed without agreement")
                self._fail_message(error)
                return
            self._keep(Compressed(message) if compressed else message)

    def on_end(self, trailers: Trailers | None) -> None:
        self.trailers = trailers
        if self._reader is not None:
            self._check_complete()
        self.ended = True
        self._wake_reader()
        self.on_window()
        if self.watch is not None and not self._has_more and not self._connection.is_client:
            notify_in_read_loop(self.path, self.watch.received_all)

    def _check_complete(self) -> None:
        """Fail a stream that has ended in the middle of a message, unless it failed anyway."""
        if self._uncut or self._reader is None or not self._reader.partial:
            return
        if self.trailers is None or self.trailers.code == 0:
            error = purerpc.InternalError("the stream ended in the middle of a message")
            self._fail_message(error)

    def _fail_message(self, failure: purerpc.RpcFailedError) -> None:
        """Fail for what was received, which may be found out after the end has come."""
        if self.over and self.failure is None:
            self.failure = failure
        else:
            self.fail(failure)

    def on_window(self) -> None:
        if self._writable is not None:
            self._writable.wake()

    def fail(self, failure: purerpc.RpcFailedError) -> None:
        """End the stream before its time; the first reason stands."""
        if not self.over:
            self.failure = failure
        if self.on_failure is not None:
            self.on_failure.cancel()
        self._wake_reader()
        self.on_window()

    @property
    def begun(self) -> bool:
        """On a server: something may have processed the call, so that it cannot be refused."""
        return True

    def refuse(self) -> None:
        """On a server: end a call that has not begun, for its client to make again."""
        self.reset(ErrorCode.REFUSED_STREAM)

    def on_shutdown(self) -> None:
        """On a server that is shutting down: end the call."""
        self.fail(purerpc.UnavailableError(STOPPED))

    def on_shutdown_timeout(self) -> None:
        """The time that was left for it is over."""
        self.fail(purerpc.UnavailableError(STOPPED))


class DiscardingStream(Stream):
    """A stream whose request is of no interest: what comes is dropped."""

    __slots__ = ()

    def on_data(self, data: bytes, end_stream: bool) -> None:
        if end_stream:
            self.on_end(None)
