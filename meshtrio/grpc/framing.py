"""Length-Prefixed-Message: how gRPC messages are cut out of a stream's DATA.

A message is preceded by five bytes: a flag that says whether it is compressed, and its length.
Source: gRPC's doc/PROTOCOL-HTTP2.md, "Length-Prefixed-Message".
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Sequence

IDENTITY = "identity"
GZIP = "gzip"
ENCODINGS = (IDENTITY, GZIP)
"""Encodings that this side accepts and can send."""

_GZIP_WBITS = 31
"""zlib's `wbits` for the largest window, in the gzip format (RFC 1952)."""
_GZIP_LEVEL = 6
_MESSAGE_PREFIX = struct.Struct(">BL")
pack_message_prefix = _MESSAGE_PREFIX.pack
"""Packs the prefix of a message: whether it is compressed, and its length."""
MESSAGE_PREFIX_SIZE = 5
MIN_SEPARATE_PREFIX_SIZE = 32 * 1024
"""Size of a message, in bytes, above which copying it costs more than another frame."""
MessageData = bytes | bytearray
"""A received message: a bytearray if it was received into a buffer."""
Messages = Sequence[tuple[bool, MessageData]]
"""Messages, each as (compressed, bytes)."""
_MIN_BUFFER_SIZE = 64 * 1024
"""Number of missing bytes from which on a message gets a buffer to receive it into."""
_MAX_EMPTY_SIZE = 2 * 1024 * 1024
_MAX_BUFFER_GROWTH = 8
"""A buffer with more missing bytes than `_MAX_EMPTY_SIZE` is at most as many times as large as what
was received: a peer must not make this side allocate memory by announcing a message."""


class MessageTooLargeError(Exception):
    """A received message exceeds the limit of this side.

    Attributes:
        length: Bytes of the message, as its prefix gives them; if it was decompressed, the bytes at
            which decompression stopped.
        limit: Bytes that a message may have.
        complete_messages: The messages that were completed by the same DATA before this one, as
            (compressed, bytes).
    """

    def __init__(self, length: int, limit: int, complete_messages: Messages = ()) -> None:
        super().__init__(f"message of {length} bytes is over the limit of {limit} bytes")
        self.length = length
        self.limit = limit
        self.complete_messages = complete_messages


def frame_message(message: bytes, *, compressed: bool = False) -> bytes:
    """Encode a message with its prefix."""
    return pack_message_prefix(compressed, len(message)) + message


def parse_single_message(data: bytes, max_size: int) -> bytes | None:
    """Return the message if `data` is exactly one uncompressed message, else None.

    Most DATA frames are, and then the stream needs no `MessageReader`.
    """
    if len(data) < MESSAGE_PREFIX_SIZE:
        return None
    flag, length = _MESSAGE_PREFIX.unpack_from(data)
    if flag or length != len(data) - MESSAGE_PREFIX_SIZE or length > max_size:
        return None
    return data[MESSAGE_PREFIX_SIZE:]


class MessageReader:
    """Cuts the DATA of one stream into messages of at most `max_size` bytes, without prefix.

    Holds at most one incomplete message: the length is checked as soon as the prefix is complete,
    before any of the body is kept. A compressed message may exceed `max_size` by what gzip adds to
    incompressible data, since the limit applies to the decompressed message.
    """

    __slots__ = ("_buffer", "_chunks", "_make_buffer", "_max_size", "_needed_size", "buffered_size")

    def __init__(self, max_size: int, make_buffer: Callable[[int], bytearray] = bytearray) -> None:
        """`make_buffer` returns a buffer of a given size, for `open_buffer`."""
        self._max_size = max_size
        self._make_buffer = make_buffer
        self._chunks: list[bytes] = []
        self._buffer: bytearray | None = None
        """What a large message is received into, if `open_buffer` was called."""
        self.buffered_size = 0
        """Number of bytes received of the incomplete message, prefix included."""
        self._needed_size = MESSAGE_PREFIX_SIZE

    @property
    def has_partial_message(self) -> bool:
        """Whether a message is incomplete, so that the stream may not end here."""
        return self.buffered_size > 0

    @property
    def framed_size(self) -> int:
        """Size of the incomplete message with its prefix; 0 if there is none.

        The size of the prefix alone until that is complete.
        """
        return self._needed_size if self.buffered_size else 0

    @property
    def missing_size(self) -> int:
        """Number of bytes that the incomplete message, or its prefix, still needs."""
        return self._needed_size - self.buffered_size if self.buffered_size else 0

    def open_buffer(self, max_size: int) -> memoryview | None:
        """Return memory to receive the next bytes of the incomplete message into, if it is large.

        It is of at most `max_size` bytes. The part of it that was filled is to be passed to `feed`
        next, which does not copy it. Returns None if the message is received in pieces.
        """
        if self._buffer is None:
            missing = self.missing_size
            if (
                missing < _MIN_BUFFER_SIZE
                or missing > max(_MAX_EMPTY_SIZE, self.buffered_size * (_MAX_BUFFER_GROWTH - 1))
                or self._chunks[0][0]  # It is compressed, and not parsed as it is.
            ):
                return None
            self._buffer = self._move_to_buffer()
        position = self.buffered_size - MESSAGE_PREFIX_SIZE
        return memoryview(self._buffer)[position : position + max_size]

    def _move_to_buffer(self) -> bytearray:
        """Make a buffer for the incomplete message, with what was received of it."""
        buffer = self._make_buffer(self._needed_size - MESSAGE_PREFIX_SIZE)
        position = -MESSAGE_PREFIX_SIZE
        for chunk in self._chunks:
            end = position + len(chunk)
            if end > 0:
                buffer[max(position, 0) : end] = memoryview(chunk)[max(-position, 0) :]
            position = end
        self._chunks = []
        return buffer

    def feed(self, data: bytes | memoryview) -> list[tuple[bool, MessageData]]:
        """Take DATA and return the messages that it completes, as (compressed, bytes).

        Raises MessageTooLargeError, after which the rest of the stream cannot be read.
        """
        if self._buffer is not None:
            return self._feed_buffer(self._buffer, data)
        if not data:
            return []
        if isinstance(data, memoryview):  # Of a buffer that is used for something else later.
            data = bytes(data)
        self._chunks.append(data)
        self.buffered_size += len(data)
        if self.buffered_size < self._needed_size:
            return []
        first = self._chunks[0]
        if self.buffered_size == self._needed_size > MESSAGE_PREFIX_SIZE <= len(first):
            # Joining without the prefix saves a copy of every large message.
            message = b"".join([memoryview(first)[MESSAGE_PREFIX_SIZE:], *self._chunks[1:]])
            self._chunks, self.buffered_size, self._needed_size = [], 0, MESSAGE_PREFIX_SIZE
            return [(first[0] != 0, message)]
        return self._split()

    def _feed_buffer(
        self, buffer: bytearray, data: bytes | memoryview
    ) -> list[tuple[bool, MessageData]]:
        """Take DATA while a message is received into a buffer."""
        missing = self._needed_size - self.buffered_size
        if not (isinstance(data, memoryview) and data.obj is buffer):
            begin = self.buffered_size - MESSAGE_PREFIX_SIZE
            part = data if len(data) <= missing else memoryview(data)[:missing]
            buffer[begin : begin + len(part)] = part
        if len(data) < missing:
            self.buffered_size += len(data)
            return []
        self._buffer, self.buffered_size, self._needed_size = None, 0, MESSAGE_PREFIX_SIZE
        try:
            return [(False, buffer), *self.feed(data[missing:])]
        except MessageTooLargeError as exc:
            exc.complete_messages = [(False, buffer), *exc.complete_messages]
            raise

    def _split(self) -> list[tuple[bool, MessageData]]:
        data = b"".join(self._chunks)
        position, end = 0, len(data)
        messages: list[tuple[bool, MessageData]] = []
        self._needed_size = MESSAGE_PREFIX_SIZE
        while end - position >= MESSAGE_PREFIX_SIZE:
            flag, length = _MESSAGE_PREFIX.unpack_from(data, position)
            if length > self._max_size and (not flag or length > compress_bound(self._max_size)):
                raise MessageTooLargeError(length, self._max_size, messages)
            body = position + MESSAGE_PREFIX_SIZE
            if end - body < length:
                self._needed_size = MESSAGE_PREFIX_SIZE + length
                break
            messages.append((flag != 0, data[body : body + length]))
            position = body + length
        rest = data[position:]
        self._chunks = [rest] if rest else []
        self.buffered_size = len(rest)
        return messages


def compress_bound(size: int) -> int:
    """Return the maximum size of a gzip-compressed message of `size` bytes (zlib compressBound)."""
    return size + (size >> 10) + 64


# -- compression (doc/compression.md) --


class DecompressionError(Exception):
    """A message is not valid in its encoding."""


def compress(data: bytes) -> bytes:
    """Compress a message with gzip."""
    compressor = zlib.compressobj(_GZIP_LEVEL, zlib.DEFLATED, _GZIP_WBITS)
    return compressor.compress(data) + compressor.flush()


def decompress(data: bytes, max_size: int) -> bytes:
    """Decompress a gzip message.

    Raises:
        MessageTooLargeError: The message has more than `max_size` bytes, at which decompression
            stops.
        DecompressionError: The data is not a single gzip member.
    """
    decompressor = zlib.decompressobj(_GZIP_WBITS)
    try:
        message = decompressor.decompress(data, max_size + 1)
    except zlib.error as exc:
        raise DecompressionError(f"not gzip: {exc}") from None
    if len(message) > max_size:
        raise MessageTooLargeError(len(message), max_size)
    if not decompressor.eof or decompressor.unused_data:
        raise DecompressionError("not a single complete gzip member")
    return message
