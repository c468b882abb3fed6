"""What sends the requests that a caller's iterable gives, and sends them again if it must."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterable
from typing import Any

import purerpc
import trio

from meshtrio.client.attempt import Attempt
from meshtrio.rpc.seam import Message
from meshtrio.structured import without_cancelled

_MOST_KEPT = 256 * 1024
"""Bytes of requests that are kept for another attempt; a call with more is committed (gRFC A6)."""


class Sender:
    """A task of the channel: `attach` it to an attempt, then `run` it; attach it to the next one.

    It knows its attempt but not its call, so that a call which is dropped is collected.
    """

    def __init__(self, messages: AsyncIterable[Message]) -> None:
        self.scope = trio.CancelScope()
        self.error: BaseException | None = None
        """What the iterable raised."""
        self._messages = messages
        self._attempt: Attempt | None = None
        self._kept: list[Message] | None = []
        self._size = 0
        self._taken = self._delivered = 0
        """Requests that the iterable gave, and that the attempt was given."""
        self._done = False
        self._turn = trio.Lock()

    @property
    def can_repeat(self) -> bool:
        """Whether another attempt can be given all that this one was."""
        return self._kept is not None

    def commit(self) -> None:
        """There will be no other attempt."""
        self._kept = None

    async def attach(self, attempt: Attempt) -> None:
        """Send to this attempt from now on, first of all what the one before was given."""
        async with self._turn:
            self._attempt, self._delivered = attempt, 0
            for message in self._kept or ():
                await self._send(attempt, message)
            if self._done:
                await self._end(attempt)

    async def run(self) -> None:
        try:
            with self.scope:
                await self._send_all()
        except trio.Cancelled:
            raise
        except BaseException as exc:
            # All that the iterable raises is its caller's. Beside Cancelled it is what a clean-up
            # raised that was cancelled from outside.
            cancelled, self.error = without_cancelled(exc)
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
                self._keep(message)
                if not await self._deliver(message):
                    return
        async with self._turn:
            self._done = True
            assert self._attempt is not None
            await self._end(self._attempt)

    def _keep(self, message: Message) -> None:
        self._taken += 1
        if self._kept is not None:
            self._size += message.ByteSize()
            self._kept.append(message)
            if self._size > _MOST_KEPT:
                self.commit()

    async def _deliver(self, message: Message) -> bool:
        """Send the request that was taken last; False where nobody wants any more."""
        async with self._turn:
            assert self._attempt is not None
            # An attempt that came meanwhile has been given it already.
            if self._delivered < self._taken:
                await self._send(self._attempt, message)
            return self.can_repeat or not self._attempt.stream.over

    async def _send(self, attempt: Attempt, message: Message) -> None:
        self._delivered += 1
        await attempt.send(message)

    async def _end(self, attempt: Attempt) -> None:
        with contextlib.suppress(purerpc.RpcFailedError):
            await attempt.stream.send_end()
