"""One call's two directions of messages on a connection, the same on either side."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

import purerpc
import trio

from meshtrio.errors import UsageError
from meshtrio.rpc.waiter import Waiter
from meshtrio.wire.connection import Role
from meshtrio.wire.errors import ErrorCode, MessageTooLarge
from meshtrio.wire.grpc import PREFIX_SIZE, MessageReader, frame_message, whole_message
from meshtrio.wire.heads import ResponseHead, Trailers

if TYPE_CHECKING:
    from meshtrio.rpc.connection import Connection


class Stream:
    """Messages in, messages out, and how it ended.

    Received messages are held until they are taken, and the peer's window is given back only
    then: what can be held is one window and one message. One task may receive while another sends.
    """

    __slots__ = (
        "_connection",
        "_ended_by_peer_means_over",
        "_held",
        "_max_message_size",
        "_messages",
        "_readable",
        "_reader",
        "_writable",
        "ended",
        "failure",
        "head",
        "id",
        "on_failure",
        "trailers",
    )

    def __init__(self, connection: Connection, stream_id: int) -> None:
        self.id = stream_id
        self.head: ResponseHead | None = None
        self.trailers: Trailers | None = None
        self.ended = False
        """The peer will send nothing more, and said so."""
        self.failure: purerpc.RpcFailedError | None = None
        """Why the stream ended before its time."""
        self.on_failure: trio.CancelScope | None = None
        """Cancelled when the stream fails: the scope of the handler on a server."""
        self._connection = connection
        self._ended_by_peer_means_over = connection.engine.role is Role.CLIENT
        self._max_message_size = connection.limits.max_message_size
        self._messages: deque[bytes] = deque()
        self._held = 0
        self._reader: MessageReader | None = None
        """Made for the first DATA that is not just one whole message."""
        self._readable = Waiter()
        self._writable = Waiter()

    @property
    def over(self) -> bool:
        """Nothing that is sent matters any more: the stream failed, or its server has answered."""
        return self.failure is not None or (self.ended and self._ended_by_peer_means_over)

    # -- for the call: messages --------------------------------------------------------------

    async def receive(self) -> bytes | None:
        """Take the next message, None after the last. Cancellable, and then nothing is lost.

        Raises the status the stream failed with, once the messages before it are taken.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        while not self._messages:
            if self.failure is not None:
                raise self.failure
            if self.ended:
                return None
            await self._readable.wait()
        message = self._messages.popleft()
        if not self.ended:
            self._release(len(message) + PREFIX_SIZE if self._messages else self._held)
        return message

    async def receive_all(self) -> deque[bytes]:
        """Wait for the end and take every message at once; for a call that has but one.

        More than one is an error of the peer's, which the window keeps small. Raises the status the
        stream failed with.
        """
        while not self.ended and len(self._messages) < 2 and self.failure is None:
            await self._readable.wait()
        if self.failure is not None:
            raise self.failure
        return self._messages

    async def send(
        self,
        message: bytes,
        *,
        head: bytes = b"",
        end_stream: bool = False,
        trailers: bytes = b"",
    ) -> None:
        """Send a message: after a head, if given, and before this side's end, bare or as trailers.

        Waits for the peer's window and for the socket. Raises the status the stream failed with;
        a client's message to a server that has answered already is dropped.
        When cancelled the message may be half sent, so the stream has to be reset.
        """
        data = frame_message(message)
        await self.send_bytes(data, head=head, end_stream=end_stream, trailers=trailers)

    async def send_bytes(
        self,
        data: bytes,
        *,
        head: bytes = b"",
        end_stream: bool = False,
        trailers: bytes = b"",
    ) -> None:
        """The same as `send`, for DATA as it is."""
        await trio.lowlevel.checkpoint_if_cancelled()
        connection = self._connection
        if connection.outbox.congested:
            await connection.outbox.uncongested()
        left: bytes | memoryview = data
        if head and not self._check_over():
            connection.engine.send_headers(self.id, head)
        while not self._check_over():
            taken = connection.engine.send_data(self.id, left, end_stream=end_stream)
            if taken == len(left):
                break
            left = memoryview(left)[taken:]
            connection.flush()
            connection.await_window(self)
            await self._writable.wait()
        if trailers and not self.over:
            connection.engine.send_headers(self.id, trailers, end_stream=True)
        connection.flush()

    async def send_end(self) -> None:
        """End this side without a further message. Does nothing where it has ended already."""
        await trio.lowlevel.checkpoint_if_cancelled()
        if not self.over and self._connection.engine.can_send(self.id):
            self._connection.engine.send_data(self.id, b"", end_stream=True)
            self._connection.flush()

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

    def _release(self, size: int) -> None:
        size = min(size, self._held)
        self._held -= size
        if size and self._connection.engine.release(self.id, size):
            self._connection.flush()

    # -- for the connection: what the peer did -----------------------------------------------

    def on_data(self, data: bytes, end_stream: bool) -> None:
        if self.failure is not None:
            return
        self._held += len(data)
        message = None if self._reader else whole_message(data, self._max_message_size)
        if message is not None:
            self._messages.append(message)
        else:
            self._assemble(data)
        if end_stream:
            self.on_end(None)
        elif not self._messages and self._held:
            # Nothing is waiting to be taken, so the message under way may grow to its full size.
            self._connection.engine.release(self.id, self._held)
            self._held = 0
        self._readable.wake()

    def _assemble(self, data: bytes) -> None:
        """Take DATA whose frames and messages do not coincide."""
        if self._reader is None:
            self._reader = MessageReader(self._max_message_size)
        try:
            for compressed, message in self._reader.feed(data):
                if compressed:
                    self.fail(purerpc.InternalError("a message was compressed without agreement"))
                    return
                self._messages.append(message)
        except MessageTooLarge as exc:
            self.fail(purerpc.ResourceExhaustedError(f"received {exc}"))

    def on_end(self, trailers: Trailers | None) -> None:
        if self._reader and self._reader.partial and (trailers is None or trailers.code == 0):
            self.fail(purerpc.InternalError("the stream ended in the middle of a message"))
        self.ended = True
        self.trailers = trailers
        self._readable.wake()
        self._writable.wake()

    def on_window(self) -> None:
        self._writable.wake()

    def fail(self, failure: purerpc.RpcFailedError) -> None:
        """End the stream before its time; the first reason stands."""
        if not self.over:
            self.failure = failure
        if self.on_failure is not None:
            self.on_failure.cancel()
        self._readable.wake()
        self._writable.wake()


class DiscardingStream(Stream):
    """A stream whose request is of no interest: what comes is dropped."""

    __slots__ = ()

    def on_data(self, data: bytes, end_stream: bool) -> None:
        self._connection.engine.release(self.id, len(data))
        if end_stream:
            self.on_end(None)
