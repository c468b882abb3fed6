"""Header compression, RFC 7541.

Encoding never touches the dynamic table: a block is a function of its fields alone, so constant
blocks (a method's request head, a successful response's head and trailers) are encoded once in a
process and reused on every connection. Decoding is `field_decoder`'s, behind a memory of blocks
that were seen before.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

import attrs

from meshtrio.http2.errors import ErrorCode, RemoteProtocolError
from meshtrio.http2.hpack.decoder import (
    ENTRY_OVERHEAD,
    HeaderList,
    HpackDecoder,
    HpackDecodingError,
    OversizedHeaderListError,
)

T = TypeVar("T")

TABLE_SIZE_UPDATE_TO_ZERO = b"\x20"
"""A dynamic table size update to zero (§6.3), owed to a peer that lowers HEADER_TABLE_SIZE."""

_FULLY_INDEXED = {
    (b":method", b"POST"): b"\x83",
    (b":scheme", b"http"): b"\x86",
    (b":scheme", b"https"): b"\x87",
    (b":status", b"200"): b"\x88",
}
_INDEXED_NAME = {
    b":authority": 1,
    b":path": 4,
    b":status": 8,
    b"authorization": 23,
    b"content-type": 31,
    b"user-agent": 58,
}
_NEVER_INDEXED = frozenset({b"authorization", b"cookie", b"proxy-authorization"})


def encode_integer(value: int, prefix_bits: int, first_byte: int) -> bytes:
    """Encode an integer with a prefix (§5.1); `first_byte` carries the bits above the prefix."""
    limit = (1 << prefix_bits) - 1
    if value < limit:
        return bytes((first_byte | value,))
    out = bytearray((first_byte | limit,))
    value -= limit
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def encode_field(name: bytes, value: bytes) -> bytes:
    """Encode one field: indexed where the static table has it whole, else a literal (§6.2)."""
    indexed = _FULLY_INDEXED.get((name, value))
    if indexed is not None:
        return indexed
    kind = 0x10 if name in _NEVER_INDEXED else 0x00
    index = _INDEXED_NAME.get(name)
    if index is not None:
        head = encode_integer(index, 4, kind)
    else:
        head = bytes((kind,)) + encode_integer(len(name), 7, 0) + name
    return head + encode_integer(len(value), 7, 0) + value


def encode(fields: Iterable[tuple[bytes, bytes]]) -> bytes:
    """Encode a header list into a block that decodes the same in any state of the peer's table."""
    return b"".join([encode_field(name, value) for name, value in fields])


def header_list_size(fields: Iterable[tuple[bytes, bytes]]) -> int:
    """The size of a header list in bytes, as RFC 9113 §6.5.2 counts it."""
    return sum(len(name) + len(value) + ENTRY_OVERHEAD for name, value in fields)


@attrs.frozen
class HeaderBlock:
    """An encoded header list."""

    data: bytes
    list_size: int
    """Bytes of the list as `header_list_size` counts them, for the peer's limit."""

    @classmethod
    def encode(cls, fields: Sequence[tuple[bytes, bytes]]) -> HeaderBlock:
        """Encode a list."""
        return cls(encode(fields), header_list_size(fields))

    def __add__(self, other: HeaderBlock) -> HeaderBlock:
        return HeaderBlock(self.data + other.data, self.list_size + other.list_size)


class HeaderDecoder:
    """Decodes one direction of one connection.

    `decode(block, parse)` gives `parse(fields)`. A block that left the dynamic table as it found
    it means the same until the table next changes, so its parsed result is remembered till then:
    after a connection's first calls, a head costs one dictionary look-up.
    """

    _MAX_CACHED = 64
    _MAX_CACHED_SIZE = 1024
    """Bytes, of a block and of what it means: one byte of a block can stand for a large entry."""

    def __init__(
        self, max_header_list_size: int, absolute_max_header_list_size: int | None = None
    ) -> None:
        """Set the limits, which are those of `HpackDecoder`; `absolute_max` is by default the
        first one."""
        self._decoder = HpackDecoder(
            max_header_list_size,
            max_header_list_size
            if absolute_max_header_list_size is None
            else absolute_max_header_list_size,
        )
        self._cache: dict[tuple[Callable[[HeaderList], Any], bytes], Any] = {}

    def decode(self, block: bytes, parse: Callable[[HeaderList], T]) -> T:
        """Decode and parse one block.

        Raises PeerViolation for a block that RFC 7541 forbids or that is over the absolute limit
        (either leaves the table in doubt, hence the connection), HeaderListTooLarge for a list
        that is over the limit, and what `parse` raises.
        """
        key = (parse, block)
        known: T | None = self._cache.get(key)
        if known is not None:
            return known
        before = self._decoder.table_version
        try:
            fields = self._decode(block)
        finally:
            if self._decoder.table_version != before:
                self._cache.clear()
        result = parse(fields)
        size = max(len(block), sum(len(name) + len(value) for name, value in fields))
        if size <= self._MAX_CACHED_SIZE and self._decoder.table_version == before:
            if len(self._cache) >= self._MAX_CACHED:
                self._cache.clear()
            self._cache[key] = result
        return result

    def _decode(self, block: bytes) -> HeaderList:
        try:
            return self._decoder.decode(block)
        except OversizedHeaderListError as exc:
            raise RemoteProtocolError(ErrorCode.ENHANCE_YOUR_CALM, str(exc)) from None
        except HpackDecodingError as exc:
            reason = f"header block cannot be decoded: {exc}"
            raise RemoteProtocolError(ErrorCode.COMPRESSION_ERROR, reason) from None
