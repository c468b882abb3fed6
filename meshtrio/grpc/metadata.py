"""gRPC over HTTP/2, the parts that are bytes and text: messages, timeouts, metadata, status text.

Source: gRPC's doc/PROTOCOL-HTTP2.md.
"""

from __future__ import annotations

import base64
import binascii
import math
import re
import struct
from functools import lru_cache
from urllib.parse import unquote_to_bytes

from meshtrio.http2.errors import MalformedHeadersError, MessageTooLargeError

Metadata = tuple[tuple[str, str | bytes], ...]
"""Pairs in order of arrival; the value of a key that ends in `-bin` is bytes, any other is text."""

_MESSAGE_PREFIX = struct.Struct(">BL")
MESSAGE_PREFIX_SIZE = 5
DEFAULT_MAX_MESSAGE_SIZE = 4 * 1024 * 1024

_MAX_TIMEOUT_VALUE = 99_999_999
_TIMEOUT_UNITS = (("u", 1e-6), ("m", 1e-3), ("S", 1.0), ("M", 60.0), ("H", 3600.0))
_MAX_TIMEOUT = _MAX_TIMEOUT_VALUE * 3600.0
_SECONDS_PER_UNIT = dict(_TIMEOUT_UNITS, n=1e-9)

CONNECTION_SPECIFIC_FIELDS = frozenset(
    {"connection", "keep-alive", "proxy-connection", "transfer-encoding", "upgrade"}
)
"""Fields that have no place in HTTP/2 (RFC 9113 §8.2.2)."""
ALLOWED_GRPC_KEYS = frozenset(
    {"grpc-tags-bin", "grpc-trace-bin", "grpc-previous-rpc-attempts", "grpc-retry-pushback-ms"}
)
"""What applications may see and say, though gRPC has kept names like it for itself (gRFC A6)."""
_RESERVED_KEYS = CONNECTION_SPECIFIC_FIELDS | {
    "te",
    "content-type",
    "content-length",
    "user-agent",
    "host",
}
_KEY_PATTERN = re.compile("[0-9a-z._-]+")
_match_key = re.compile(rb"[0-9a-z._-]+").fullmatch
_match_ascii_value = re.compile(rb"[ -~]*").fullmatch
_UNESCAPED_BYTES = frozenset(range(0x20, 0x7F)) - {ord("%")}
_UNESCAPED_CHARACTERS = frozenset(map(chr, _UNESCAPED_BYTES))
_ELLIPSIS = "…"
_ELLIPSIS_SIZE = len("%E2%80%A6")


class ReceivedText(str):
    """A metadata key or value that a peer sent and that gRPC does not allow a program to write.

    HTTP/2 peers send more than gRPC specifies: bytes beyond ASCII, tabs, other characters in names.
    Each byte is one character (Latin-1). `encode_metadata` accepts such a text and sends the same
    bytes again, so metadata that was received can be passed on or echoed; a text that a program
    makes of it is an ordinary `str`, to which the rules for what programs write apply.
    """

    __slots__ = ()


def encode_message_prefix(length: int, *, compressed: bool = False) -> bytes:
    """What comes before a message: a flag byte and four bytes of length."""
    return _MESSAGE_PREFIX.pack(compressed, length)


def frame_message(message: bytes, *, compressed: bool = False) -> bytes:
    """Length-Prefixed-Message: prefix and message."""
    return encode_message_prefix(len(message), compressed=compressed) + message


def parse_single_message(data: bytes, max_size: int) -> bytes | None:
    """The message, where DATA is exactly one that is not compressed; None otherwise.

    Most DATA is: this saves a `MessageReader` for the stream.
    """
    if len(data) < MESSAGE_PREFIX_SIZE:
        return None
    flag, length = _MESSAGE_PREFIX.unpack_from(data)
    if flag or length != len(data) - MESSAGE_PREFIX_SIZE or length > max_size:
        return None
    return data[MESSAGE_PREFIX_SIZE:]


class MessageReader:
    """Cuts a stream's DATA into messages.

    Holds at most one incomplete message, and that only up to `max_size` bytes: the length is
    checked as soon as the prefix is there, before the body is kept. A compressed message may have
    as many more as gzip adds to one that it cannot make smaller: what it decompresses to counts.
    """

    __slots__ = ("_buffered_size", "_chunks", "_max_size", "_needed_size")

    def __init__(self, max_size: int) -> None:
        """`max_size`: bytes of one message, without its prefix."""
        self._max_size = max_size
        self._chunks: list[bytes] = []
        self._buffered_size = 0
        self._needed_size = MESSAGE_PREFIX_SIZE

    @property
    def has_partial_message(self) -> bool:
        """True while a message has begun and not ended: a stream may not end here."""
        return self._buffered_size > 0

    @property
    def buffered_size(self) -> int:
        """Bytes that have come of the message under way."""
        return self._buffered_size

    @property
    def framed_size(self) -> int:
        """Bytes of the message under way with its prefix, if that has come; 0 for none."""
        return self._needed_size if self._buffered_size else 0

    @property
    def missing_size(self) -> int:
        """Bytes that the message under way still needs, as far as its prefix has told."""
        return self._needed_size - self._buffered_size if self._buffered_size else 0

    def feed(self, data: bytes) -> list[tuple[bool, bytes]]:
        """Take DATA, give the messages it completes as (compressed, bytes).

        Raises MessageTooLarge; the stream must then be ended, since what follows is lost.
        """
        if not data:
            return []
        self._chunks.append(data)
        self._buffered_size += len(data)
        if self._buffered_size < self._needed_size:
            return []
        first = self._chunks[0]
        if self._buffered_size == self._needed_size > MESSAGE_PREFIX_SIZE <= len(first):
            # Saves a copy of every large message: it is joined without its prefix at once.
            message = b"".join([memoryview(first)[MESSAGE_PREFIX_SIZE:], *self._chunks[1:]])
            self._chunks, self._buffered_size, self._needed_size = [], 0, MESSAGE_PREFIX_SIZE
            return [(first[0] != 0, message)]
        return self._split()

    def _split(self) -> list[tuple[bool, bytes]]:
        data = b"".join(self._chunks)
        position, end = 0, len(data)
        messages: list[tuple[bool, bytes]] = []
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
        self._buffered_size = len(rest)
        return messages


def compress_bound(size: int) -> int:
    """The most bytes that gzip makes of a message of `size` bytes (zlib's compressBound)."""
    return size + (size >> 10) + 64


def encode_timeout(seconds: float) -> str:
    """Encode a `grpc-timeout`: at most eight digits and a unit, rounded up.

    Rounded up so that the callee never gives up before its caller's own deadline has passed.
    """
    seconds = min(max(seconds, 0.0), _MAX_TIMEOUT)
    for unit, size in _TIMEOUT_UNITS:
        count = math.ceil(seconds / size)
        if count <= _MAX_TIMEOUT_VALUE:
            return f"{count}{unit}"
    return f"{_MAX_TIMEOUT_VALUE}H"


def decode_timeout(value: bytes) -> float:
    """Decode a `grpc-timeout` to seconds. Raises MalformedHead."""
    digits, unit = value[:-1], value[-1:].decode("latin-1")
    if not 1 <= len(digits) <= 8 or not digits.isdigit() or unit not in _SECONDS_PER_UNIT:
        raise MalformedHeadersError(
            f"grpc-timeout {value[:40]!r} is not up to eight digits and a unit"
        )
    return int(digits) * _SECONDS_PER_UNIT[unit]


def encode_status_message(text: str, max_size: int | None = None) -> bytes:
    """Percent-encode a `grpc-message`: what is not printable ASCII, and `%` itself.

    Args:
        text: The status message. Lone surrogates become `?`.
        max_size: Bytes that the encoded message may have, at least those of an ellipsis. A longer
            text is cut between characters and ends in an ellipsis; the work is bounded by
            `max_size` and not by the length of the text.
    """
    if max_size is None:
        return _percent_encode(text)
    if len(text) <= max_size:
        encoded = _percent_encode(text)
        if len(encoded) <= max_size:
            return encoded
    return _percent_encode(_truncate(text, max_size))


def _truncate(text: str, max_size: int) -> str:
    """Cut a text so that it takes at most `max_size` bytes when encoded, ellipsis included."""
    room = max_size - _ELLIPSIS_SIZE
    kept, leading = 0, True
    for character in text[:max_size]:
        # Spaces are escaped at the ends of a value, and the end is the ellipsis.
        leading = leading and character == " "
        plain = character in _UNESCAPED_CHARACTERS and not leading
        room -= 1 if plain else 3 * len(character.encode("utf-8", "replace"))
        if room < 0:
            break
        kept += 1
    return text[:kept] + _ELLIPSIS


def _percent_encode(text: str) -> bytes:
    raw = text.encode("utf-8", "replace")
    if all(byte in _UNESCAPED_BYTES for byte in raw) and raw == raw.strip(b" "):
        return raw
    encoded = b"".join(
        bytes((byte,)) if byte in _UNESCAPED_BYTES else b"%%%02X" % byte for byte in raw
    )
    return escape_outer_whitespace(encoded)


def escape_outer_whitespace(value: bytes) -> bytes:
    """Percent-encode the white space at the ends of a `grpc-message`, where HTTP/2 allows none."""
    body = value.strip(b" \t")
    if len(body) == len(value):
        return value
    before = len(value) - len(value.lstrip(b" \t")) if body else len(value)
    after = value[before + len(body) :]
    return _percent_encode_all(value[:before]) + body + _percent_encode_all(after)


def _percent_encode_all(raw: bytes) -> bytes:
    return b"".join(b"%%%02X" % byte for byte in raw)


def decode_status_message(value: bytes) -> str:
    """Decode a `grpc-message`; what is not valid is kept or replaced, never an error."""
    return unquote_to_bytes(value).decode("utf-8", "replace")


def encode_metadata(metadata: Metadata) -> list[tuple[bytes, bytes]]:
    """Encode user metadata into header fields.

    Keys and values that were received (`ReceivedText`) are sent as they came. Raises ValueError or
    TypeError, naming the key, for what gRPC cannot carry: names that are reserved or not lower-case
    header names, text that is not printable ASCII, bytes for a key without `-bin` and text for one
    with it.
    """
    return [_encode_entry(key, value) for key, value in metadata]


def _encode_entry(key: str, value: str | bytes) -> tuple[bytes, bytes]:
    name = key.encode("latin-1") if isinstance(key, ReceivedText) else _encode_key(key)
    if name.endswith(b"-bin"):
        if not isinstance(value, bytes):
            raise TypeError(f"metadata key {key!r} ends in '-bin', so its value must be bytes")
        return name, encode_binary(value)
    if not isinstance(value, str):
        raise TypeError(f"metadata key {key!r} does not end in '-bin', so its value must be str")
    if not (value.isascii() and value.isprintable()):
        if isinstance(value, ReceivedText):
            return name, value.encode("latin-1")
        raise ValueError(f"metadata key {key!r}: its value has characters outside printable ASCII")
    return name, value.strip(" ").encode()


@lru_cache(256)
def _encode_key(key: str) -> bytes:
    """A program's keys are few, and the same in every call."""
    if not isinstance(key, str):
        raise TypeError(f"metadata key {key!r} must be str")
    name = key.lower() if key.isascii() else key
    grpcs_own = name.startswith("grpc-") and name not in ALLOWED_GRPC_KEYS
    if grpcs_own or name in _RESERVED_KEYS:
        raise ValueError(f"metadata key {key!r} is reserved, as is all that begins with 'grpc-'")
    if not _KEY_PATTERN.fullmatch(name):
        raise ValueError(
            f"metadata key {key!r}: only letters, digits, '-', '_' and '.' may be used"
        )
    return name.encode()


def decode_key(name: bytes) -> str:
    """Decode the name of a metadata field that was received."""
    text = name.decode("latin-1")
    return text if _match_key(name) else ReceivedText(text)


def decode_value(value: bytes) -> str:
    """Decode the value of a metadata field that was received, and that is not binary."""
    text = value.decode("latin-1")
    return text if _match_ascii_value(value) else ReceivedText(text)


def encode_binary(value: bytes) -> bytes:
    """Encode the value of a `-bin` field: base64 without padding."""
    return base64.b64encode(value).rstrip(b"=")


def decode_binary(value: bytes) -> list[bytes]:
    """Decode the value of a `-bin` field: base64 with or without padding, commas between values.

    Raises MalformedHead.
    """
    try:
        return [_decode_base64(part.strip()) for part in value.split(b",")]
    except (binascii.Error, ValueError):
        raise MalformedHeadersError(f"binary metadata {value[:40]!r} is not base64") from None


def _decode_base64(part: bytes) -> bytes:
    part = part.rstrip(b"=")
    return base64.b64decode(part + b"=" * (-len(part) % 4), validate=True)
