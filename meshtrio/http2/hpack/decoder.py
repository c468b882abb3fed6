"""Decoding of header blocks, RFC 7541.

`HeaderDecoder` caches header lists. Decoding is fast, too, because header blocks of calls with a
deadline or a trace are never in the cache.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from functools import lru_cache
from typing import Any, TypeVar

from meshtrio.http2.errors import (
    ErrorCode,
    HeaderListTooLargeError,
    HpackDecodingError,
    RemoteProtocolError,
)
from meshtrio.http2.hpack.huffman import decode_huffman

T = TypeVar("T")
HeaderField = tuple[bytes, bytes]
HeaderList = tuple[HeaderField, ...]

_NAMES_WITHOUT_VALUE = b"""
    accept-language accept-ranges accept access-control-allow-origin age allow authorization
    cache-control content-disposition content-encoding content-language content-length
    content-location content-range content-type cookie date etag expect expires from host if-match
    if-modified-since if-none-match if-range if-unmodified-since last-modified link location
    max-forwards proxy-authenticate proxy-authorization range referer refresh retry-after server
    set-cookie strict-transport-security transfer-encoding user-agent vary via www-authenticate
"""

_STATIC_TABLE: HeaderList = (
    (b":authority", b""),
    *((b":method", method) for method in (b"GET", b"POST")),
    *((b":path", path) for path in (b"/", b"/index.html")),
    *((b":scheme", scheme) for scheme in (b"http", b"https")),
    *((b":status", status) for status in b"200 204 206 304 400 404 500".split()),
    (b"accept-charset", b""),
    (b"accept-encoding", b"gzip, deflate"),
    *((name, b"") for name in _NAMES_WITHOUT_VALUE.split()),
)
"""Fields by index, of which the first is 1 (Appendix A)."""
_MAX_DYNAMIC_TABLE_SIZE = 4096
"""Maximum size of the dynamic table: the default of SETTINGS_HEADER_TABLE_SIZE, in bytes."""
ENTRY_OVERHEAD = 32
"""Bytes that a table entry and a header field count in addition to name and value (§4.1)."""
_MAX_CONTINUATION_BYTES = 4
"""Maximum length of an integer after its prefix, in bytes; more than any block needs."""
_CACHE_ENTRY_OVERHEAD = 512
"""Bytes that a cached header list is counted for in addition to its own."""
_CONTENT_TYPE = b"content-type"
"""Field that is kept of a discarded list, since the form of the response depends on it."""
_MAX_CACHED_HUFFMAN_LENGTH = 64
"""Maximum length of a Huffman-coded string whose decoding is cached, in bytes: those of names and
common values."""


class HeaderDecoder:
    """Decodes and parses the header blocks of one direction of one connection, with a cache.

    A block that does not change the dynamic table decodes to the same list until the table next
    changes, so the result of parsing it is cached until then: after the first calls of a
    connection, most blocks cost one look-up. The cache is a plain dict that is cleared when it is
    full, as keeping track of use (`BoundedCache`) would double the time of a look-up.
    """

    _MAX_CACHED_SIZE = 4096
    """Bytes of a block, and of its header list: one byte of a block can stand for a large entry."""
    _MAX_CACHE_SIZE = 64 * 1024
    """Bytes of all of them."""

    def __init__(self, max_list_size: int, absolute_max_list_size: int = 0) -> None:
        """Create a decoder with limits in bytes, as RFC 9113 §6.5.2 counts them.

        A list above `max_list_size` is decoded to its end, so that the dynamic table stays in step
        with the peer's, and discarded; above `absolute_max_list_size`, if that is higher, decoding
        cannot continue.
        """
        self._max_list_size = max_list_size
        self._absolute_max_list_size = max(absolute_max_list_size, max_list_size)
        self._entries: deque[HeaderField] = deque()
        """The dynamic table, newest entry first."""
        self._table_size = 0
        self._max_table_size = _MAX_DYNAMIC_TABLE_SIZE
        self._table_version = 0
        """Number of changes of the dynamic table."""
        self._cache: dict[tuple[Callable[[HeaderList], Any], bytes], Any] = {}
        self._cache_size = 0

    def decode(self, block: bytes, parse: Callable[[HeaderList], T]) -> T:
        """Decode one block and return `parse(header_list)`, from the cache if possible.

        Raises the errors of header compression, and what `parse` raises.
        """
        key = (parse, block)
        cached: T | None = self._cache.get(key)
        if cached is not None:
            return cached
        version = self._table_version
        try:
            fields = self._decode_fields(block)
        except IndexError as exc:
            raise HpackDecodingError(str(exc)) from None
        result = parse(fields)
        size = max(len(block), sum(len(name) + len(value) for name, value in fields))
        if size <= self._MAX_CACHED_SIZE and self._table_version == version:
            if self._cache_size + size > self._MAX_CACHE_SIZE:
                self._clear_cache()
            self._cache[key] = result
            self._cache_size += size + _CACHE_ENTRY_OVERHEAD
        return result

    def _decode_fields(self, block: bytes) -> HeaderList:
        """Decode one block. Raises IndexError and the errors of header compression."""
        fields: list[HeaderField] = []
        position, size = 0, 0
        while position < len(block):
            first = block[position]
            if first & 0x80:
                index, position = _decode_integer(block, position, 0x7F)
                field = self._look_up(index)
            elif first & 0xE0 == 0x20:
                new_size, position = _decode_integer(block, position, 0x1F)
                self._resize(new_size, at_start=not fields)
                continue
            else:
                stored = first & 0x40
                index, position = _decode_integer(block, position, 0x3F if stored else 0x0F)
                if index:
                    name = self._look_up(index)[0]
                else:
                    name, position = _decode_string(block, position)
                value, position = _decode_string(block, position)
                field = (name, value)
                if stored:
                    self._insert(field)
            size += len(field[0]) + len(field[1]) + ENTRY_OVERHEAD
            if size <= self._max_list_size:
                fields.append(field)
            elif size > self._absolute_max_list_size:
                # Decoding stops, and the state of the table is unknown.
                text = f"a header list is larger than {self._absolute_max_list_size} bytes"
                raise RemoteProtocolError(text, ErrorCode.ENHANCE_YOUR_CALM)
            elif field[0] == _CONTENT_TYPE:
                fields.append(field)
        if size > self._max_list_size:
            content_type = dict(fields).get(_CONTENT_TYPE, b"")
            raise HeaderListTooLargeError(size, self._max_list_size, content_type=content_type)
        return tuple(fields)

    def _look_up(self, index: int) -> HeaderField:
        if not index:
            raise HpackDecodingError("index 0 is invalid")
        if index <= len(_STATIC_TABLE):
            return _STATIC_TABLE[index - 1]
        return self._entries[index - len(_STATIC_TABLE) - 1]

    def _insert(self, field: HeaderField) -> None:
        size = _entry_size(field)
        self._evict(self._max_table_size - size)
        if size <= self._max_table_size:
            self._entries.appendleft(field)
            self._table_size += size

    def _resize(self, size: int, *, at_start: bool) -> None:
        if not at_start:
            raise HpackDecodingError("the table size is updated after a field")
        if size > _MAX_DYNAMIC_TABLE_SIZE:
            raise HpackDecodingError(f"table size {size} is over {_MAX_DYNAMIC_TABLE_SIZE}")
        if size != self._max_table_size:
            self._max_table_size = size
            self._evict(size)

    def _evict(self, max_size: int) -> None:
        """Evict the oldest entries until the others have `max_size` bytes at most (§4.3).

        Every change of the table begins with this, so it is also what ends the cache.
        """
        self._table_version += 1
        self._clear_cache()
        while self._entries and self._table_size > max_size:
            self._table_size -= _entry_size(self._entries.pop())

    def _clear_cache(self) -> None:
        self._cache.clear()
        self._cache_size = 0


def _entry_size(field: HeaderField) -> int:
    return len(field[0]) + len(field[1]) + ENTRY_OVERHEAD


def _decode_integer(block: bytes, position: int, mask: int) -> tuple[int, int]:
    """Decode an integer with a prefix (§5.1); return it and its end."""
    value = block[position] & mask
    position += 1
    if value != mask:
        return value, position
    for shift in range(0, 7 * _MAX_CONTINUATION_BYTES, 7):
        more = block[position]
        position += 1
        value += (more & 0x7F) << shift
        if more < 0x80:
            return value, position
    raise HpackDecodingError("an integer is too large")


def _decode_string(block: bytes, position: int) -> tuple[bytes, int]:
    """Decode a string literal (§5.2); return it and its end."""
    first = block[position]
    length, start = first & 0x7F, position + 1
    if length == 0x7F:
        length, start = _decode_integer(block, position, 0x7F)
    end = start + length
    data = block[start:end]
    if len(data) != length:
        raise HpackDecodingError("a string is cut off")
    if first & 0x80:
        is_short = length <= _MAX_CACHED_HUFFMAN_LENGTH
        return (_decode_huffman_cached if is_short else decode_huffman)(data), end
    return data, end


_decode_huffman_cached = lru_cache(1024)(decode_huffman)
