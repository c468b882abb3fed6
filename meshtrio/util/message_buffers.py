"""Memory of large messages, which is used again instead of being allocated for each message.

By default glibc returns the pages of a freed block of 1 MiB to the kernel, and faults them in again
for the next one, which takes longer than receiving and parsing the message.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import trio
from google.protobuf.message import Message

_MAX_KEPT_BUFFERS = 2
_MAX_KEPT_SIZE = 4 * 1024 * 1024
"""Maximum size of a buffer that is kept, in bytes: that of a message by default."""
_UNUSED_TIME = 1.0
"""Seconds without a large message after which no buffers are kept."""


class MessageBuffers:
    """Makes the buffers that large messages are received into, and keeps them once they are parsed.

    Also keeps the last message that was sent. All is kept only while a task runs
    `release_when_unused`, so that an idle process holds nothing.
    """

    def __init__(self, unused_time: float = _UNUSED_TIME) -> None:
        self._unused_time = unused_time
        self._kept: list[bytearray] = []
        self._last_sent = b""
        self._is_used = False
        """Whether a buffer was taken since the task of `release_when_unused` has looked last."""
        self.is_keeping = False
        """Whether a task runs `release_when_unused`."""
        self._keep_scope = trio.CancelScope()

    @property
    def kept_size(self) -> int:
        """Size of the memory that waits to be used again, in bytes."""
        return sum(map(len, self._kept)) + len(self._last_sent)

    def take(self, size: int) -> bytearray:
        """Return a buffer of `size` bytes with any content."""
        self._is_used = True
        try:
            buffer = self._kept.pop()
            missing = size - len(buffer)
            if -size <= missing <= size >> 3:
                if missing > 0:
                    buffer += bytes(missing)
                else:
                    del buffer[size:]
                return buffer
        except (IndexError, BufferError):
            pass  # None is kept, or a view of it still exists.
        return bytearray(size)

    def give_back(self, buffer: bytearray) -> None:
        """Take back a buffer whose content is not used any more."""
        if (
            self.is_keeping
            and len(self._kept) < _MAX_KEPT_BUFFERS
            and len(buffer) <= _MAX_KEPT_SIZE
        ):
            self._kept.append(buffer)

    def parse(self, from_string: Callable[..., Any], buffer: bytearray) -> Any:
        """Return what a message class's `FromString` does for a buffer, which is taken back."""
        message_type = getattr(from_string, "__self__", None)
        if not (isinstance(message_type, type) and issubclass(message_type, Message)):
            return from_string(bytes(buffer))  # It may keep what it gets.
        # Protobuf copies what it keeps. It parses a bytearray in place, and copies a memoryview.
        message = from_string(buffer)
        self.give_back(buffer)
        return message

    def keep_sent(self, message: bytes) -> None:
        """Keep a large message that is sent until the next one has been serialized.

        Protobuf serializes into memory of its own, and copies that into the message. If both were
        free at once, glibc would return their pages.
        """
        self._is_used = True
        if self.is_keeping and len(message) <= _MAX_KEPT_SIZE:
            self._last_sent = message

    async def release_when_unused(self) -> None:
        """Keep buffers until none was taken for a while; do nothing if another task does so.

        Cancellation: releases the buffers.
        """
        if self.is_keeping:
            return
        self.is_keeping = self._is_used = True
        try:
            with trio.CancelScope() as self._keep_scope:
                while self._is_used:
                    self._is_used = False
                    await trio.sleep(self._unused_time)
        finally:
            self.is_keeping = False
            self._kept.clear()
            self._last_sent = b""

    def release(self) -> None:
        """Release the memory that is kept now, and end the task of `release_when_unused`."""
        self._keep_scope.cancel()


MESSAGE_BUFFERS = MessageBuffers()
"""The buffers of this process."""
