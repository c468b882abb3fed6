"""What sends the requests that a caller's iterable gives, and sends them again if it must."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterable
from typing import Any

import purerpc
import trio

from meshtrio.client.attempt import Attempt
from meshtrio.rpc.method import Message
from meshtrio.util.concurrency import split_cancelled

_MAX_REPLAY_SIZE = 256 * 1024
"""Bytes of requests that are kept for another attempt; a call with more is committed (gRFC A6)."""


class RequestStream:
    """A task of the channel: `attach` it to an attempt, then `run` it; attach it to the next one.

    It knows its attempt but not its call, so that a call which is dropped is collected.
    """

    def __init__(self, messages: AsyncIterable[Message]) -> None:
        self.cancel_scope = trio.CancelScope()
        self.error: BaseException | None = None
        """What the iterable raised."""
        self._messages = messages
        self._attempt: Attempt | None = None
        self._replay_buffer: list[Message] | None = []
        self._buffered_size = 0
        self._read_count = self._sent_count = 0
        """Requests that the iterable gave, and that the attempt was given."""
        self._is_exhausted = False
        self._send_lock = trio.Lock()

    @property
    def is_replayable(self) -> bool:
        """Whether another attempt can be given all that this one was."""
        return self._replay_buffer is not None

    def commit(self) -> None:
        """There will be no other attempt."""
        self._replay_buffer = None

    async def attach(self, attempt: Attempt) -> None:
        """Send to this attempt from now on, first of all what the one before was given."""
        async with self._send_lock:
            self._attempt, self._sent_count = attempt, 0
            for message in self._replay_buffer or ():
                await self._send(attempt, message)
            if self._is_exhausted:
                await self._send_end(attempt)

    async def run(self) -> None:
        try:
            with self.cancel_scope:
                await self._send_all()
        except trio.Cancelled:
            raise
        except BaseException as exc:
            # All that the iterable raises is its caller's. Beside Cancelled it is what a clean-up
            # raised that was cancelled from outside.
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
            async for message in iterator:
                self._buffer(message)
                if not await self._send_latest(message):
                    return
        async with self._send_lock:
            self._is_exhausted = True
            assert self._attempt is not None
            await self._send_end(self._attempt)

    def _buffer(self, message: Message) -> None:
        self._read_count += 1
        if self._replay_buffer is not None:
            self._buffered_size += message.ByteSize()
            self._replay_buffer.append(message)
            if self._buffered_size > _MAX_REPLAY_SIZE:
                self.commit()

    async def _send_latest(self, message: Message) -> bool:
        """Send the request that was taken last; False where nobody wants any more."""
        async with self._send_lock:
            assert self._attempt is not None
            # An attempt that came meanwhile has been given it already.
            if self._sent_count < self._read_count:
                await self._send(self._attempt, message)
            return self.is_replayable or not self._attempt.stream.send_closed

    async def _send(self, attempt: Attempt, message: Message) -> None:
        self._sent_count += 1
        await attempt.send(message)

    async def _send_end(self, attempt: Attempt) -> None:
        with contextlib.suppress(purerpc.RpcFailedError):
            await attempt.stream.send_end_stream()
