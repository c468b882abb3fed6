"""Encoding of header blocks, RFC 7541.

The encoder never refers to the dynamic table: a block depends on its fields alone, so constant
blocks (the request headers of a method, the headers and trailers of a successful response) are
encoded once per process and reused on every connection.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from meshtrio.http2.hpack.decoder import ENTRY_OVERHEAD, HeaderField
from meshtrio.util.record import Record

TABLE_SIZE_UPDATE_TO_ZERO = b"\x20"
"""A dynamic table size update to zero (§6.3), due once a peer lowers HEADER_TABLE_SIZE."""

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
    """Encode one field: indexed if the static table has name and value, else a literal (§6.2)."""
    indexed = _FULLY_INDEXED.get((name, value))
    if indexed is not None:
        return indexed
    kind = 0x10 if name in _NEVER_INDEXED else 0x00
    index = _INDEXED_NAME.get(name)
    if index is not None:
        prefix = encode_integer(index, 4, kind)
    else:
        prefix = bytes((kind,)) + encode_integer(len(name), 7, 0) + name
    return prefix + encode_integer(len(value), 7, 0) + value


def encode(fields: Iterable[HeaderField]) -> bytes:
    """Encode a header list into a block that does not depend on the state of the peer's table."""
    return b"".join([encode_field(name, value) for name, value in fields])


def header_list_size(fields: Iterable[HeaderField]) -> int:
    """Return the size of a header list in bytes, as RFC 9113 §6.5.2 counts it."""
    return sum(len(name) + len(value) + ENTRY_OVERHEAD for name, value in fields)


class HeaderBlock(Record):
    """An encoded header list."""

    __slots__ = ("data", "list_size")

    def __init__(self, data: bytes, list_size: int) -> None:
        self.data = data
        """The encoded fields."""
        self.list_size = list_size
        """Size of the list as `header_list_size` counts it, to be compared with the peer's
        limit."""

    @classmethod
    def encode(cls, fields: Sequence[HeaderField]) -> HeaderBlock:
        """Encode a header list."""
        return cls(encode(fields), header_list_size(fields))

    def __add__(self, other: HeaderBlock) -> HeaderBlock:
        return HeaderBlock(self.data + other.data, self.list_size + other.list_size)
