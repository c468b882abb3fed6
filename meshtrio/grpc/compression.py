"""Message encodings of gRPC: `identity` and `gzip` (doc/compression.md)."""

from __future__ import annotations

import zlib

from meshtrio.grpc.framing import MessageTooLargeError

IDENTITY = "identity"
GZIP = "gzip"
ENCODINGS = (IDENTITY, GZIP)
"""Encodings that this side accepts and can send."""

_GZIP_WBITS = 31
"""zlib's `wbits` for the largest window, in the gzip format (RFC 1952)."""
_GZIP_LEVEL = 6


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
