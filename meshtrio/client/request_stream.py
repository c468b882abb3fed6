"""Sends the requests of a caller's iterable, and replays them if the call is retried."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterable
from typing import Any

import purerpc
import trio

from meshtrio.client.attempt import Attempt
from meshtrio.rpc.method import Message
from meshtrio.rpc.write_buffer import MessageBatch
from meshtrio.util.concurrency import call_before_waiting, split_cancelled

_MAX_REPLAY_SIZE = 256 * 1024
"""Bytes of requests that are buffered for retries; a call with more is committed (gRFC A6), and if
its attempt has just failed, no more are read until it is known whether there will be another."""


class RequestStream:
    """Reads an iterable in a task of the channel, and sends to the attempt that is attached.

    `attach` comes first, then `run`; after a retry, `attach` again. It refers to its attempt but
    not to its call, so that a call which is dropped is collected.
    """

    __slots__ = (
        "_attempt",
        "_batch",
        "_buffered_size",
        "_is_exhausted",
        "_messages",
        "_replay_buffer",
        "_send_lock",
        "_sender_parking",
        "cancel_scope",
        "error",
    )

    def __init__(self, messages: AsyncIterable[Message]) -> None:
        self._messages = messages
        self.cancel_scope = trio.CancelScope()
        self.error: BaseException | None = None
        """The exception that the iterable raised."""
        self._attempt: Attempt | None = None
        self._batch: MessageBatch | None = None
        self._replay_buffer: list[bytes] | None = []
        """The requests, serialized; None once there will be no other attempt."""
        self._buffered_size = 0
        self._is_exhausted = False
        self._send_lock = trio.Lock()
        self._sender_parking = trio.lowlevel.ParkingLot()
        """Where the task waits that has filled the buffer, for another attempt or for `commit`."""

    @property
    def is_replayable(self) -> bool:
        """Whether all requests so far can be sent to another attempt."""
        return self._replay_buffer is not None

    def commit(self) -> None:
        """Drop the replay buffer: there will be no other attempt."""
        self._replay_buffer = None
        self._sender_parking.unpark_all()

    async def attach(self, attempt: Attempt) -> None:
        """Send to this attempt from now on, and first replay what the one before was sent."""
        async with self._send_lock:
            self._attempt = attempt
            self._batch = MessageBatch(attempt.pick_result.connection.flush)
            for data in self._replay_buffer or ():
                await attempt.send(data)
            if self._is_exhausted:
                await self._send_end(attempt)
        self._sender_parking.unpark_all()

    async def run(self) -> None:
        """Send all requests, until `cancel_scope` is cancelled. Exceptions are kept in `error`."""
        try:
            with self.cancel_scope:
                await self._send_all()
        except BaseException as exc:
            # The caller gets what the iterable raises, as by clean-up code while it is cancelled.
            cancelled, self.error = split_cancelled(exc)
            if cancelled is not None:
                raise cancelled from None
        finally:
            if self.error is not None and self._attempt is not None:
                self._attempt.end()

    async def _send_all(self) -> None:
        iterator: Any = aiter(self._messages)
        async with contextlib.AsyncExitStack() as stack:
            if hasattr(iterator, "aclose"):
                await stack.enter_async_context(contextlib.aclosing(iterator))
            while True:
                try:
                    message = await call_before_waiting(anext(iterator), self._flush)
                except StopAsyncIteration:
                    break
                data = message.SerializeToString()
                if not (self._try_send(data) or await self._send(data)):
                    return
        async with self._send_lock:
            self._is_exhausted = True
            assert self._attempt is not None
            await self._send_end(self._attempt)

    def _flush(self) -> None:
        assert self._batch is not None
        self._batch.flush()

    def _try_send(self, data: bytes) -> bool:
        """Send a request as `_send` does, if nothing has to be waited for, as usual."""
        assert self._attempt is not None
        if self._send_lock.locked() or not self._attempt.try_send(data, self._batch):
            return False
        if self._replay_buffer is not None:
            self._keep(self._replay_buffer, data)
            if self._buffered_size > _MAX_REPLAY_SIZE:
                self.commit()
        return True

    def _keep(self, replay_buffer: list[bytes], data: bytes) -> None:
        self._buffered_size += len(data)
        replay_buffer.append(data)

    async def _send(self, data: bytes) -> bool:
        """Send a request, and keep it for `attach`; return False if no more are needed."""
        async with self._send_lock:
            if self._replay_buffer is not None:
                self._keep(self._replay_buffer, data)
            assert self._attempt is not None
            await self._attempt.send(data)
        while self.is_replayable and self._buffered_size > _MAX_REPLAY_SIZE:
            if self._attempt.stream.send_closed:
                await self._sender_parking.park()
            else:
                self.commit()
        return self.is_replayable or not self._attempt.stream.send_closed

    async def _send_end(self, attempt: Attempt) -> None:
        with contextlib.suppress(purerpc.RpcFailedError):
            await attempt.stream.send_end_stream()
