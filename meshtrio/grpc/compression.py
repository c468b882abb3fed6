"""Message encodings of gRPC: `identity` and `gzip` (doc/compression.md)."""

from __future__ import annotations

import zlib

from meshtrio.grpc.framing import MessageTooLargeError

IDENTITY = "identity"
GZIP = "gzip"
ENCODINGS = (IDENTITY, GZIP)
"""What this side understands and can send."""

_GZIP_WBITS = 31
"""zlib's name for its largest window in gzip's own framing (RFC 1952)."""
_GZIP_LEVEL = 6


class DecompressionError(Exception):
    """A message that is not what its encoding says."""


def compress(data: bytes) -> bytes:
    """Encode a message with gzip."""
    compressor = zlib.compressobj(_GZIP_LEVEL, zlib.DEFLATED, _GZIP_WBITS)
    return compressor.compress(data) + compressor.flush()


def decompress(data: bytes, max_size: int) -> bytes:
    """Decode a gzip message of at most `max_size` bytes.

    Never makes more than that, whatever the data claims. Raises MessageTooLarge, MalformedMessage.
    """
    decompressor = zlib.decompressobj(_GZIP_WBITS)
    try:
        message = decompressor.decompress(data, max_size + 1)
    except zlib.error as exc:
        raise DecompressionError(f"not gzip: {exc}") from None
    if len(message) > max_size:
        raise MessageTooLargeError(len(message), max_size)
    if not decompressor.eof or decompressor.unused_data:
        raise DecompressionError("not one whole gzip member")
    return message
