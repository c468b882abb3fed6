"""Custom metadata: which keys and values gRPC allows, and their form as header fields.

What this program writes is checked (`encode_metadata`); what a peer has sent is passed through as
it was received (`ReceivedText`, `encode_received_metadata`).
Source: gRPC's doc/PROTOCOL-HTTP2.md, "Custom-Metadata".
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable
from functools import lru_cache

from meshtrio.http2.errors import MalformedHeadersError
from meshtrio.http2.hpack.decoder import HeaderField

Metadata = tuple[tuple[str, str | bytes], ...]
"""Pairs in order of arrival; the value of a key that ends in `-bin` is bytes, any other is text."""

CONNECTION_SPECIFIC_FIELDS = frozenset(
    {b"connection", b"keep-alive", b"proxy-connection", b"transfer-encoding", b"upgrade"}
)
"""Fields that HTTP/2 forbids (RFC 9113 §8.2.2)."""
_ALLOWED_GRPC_KEYS = frozenset(
    {b"grpc-tags-bin", b"grpc-trace-bin", b"grpc-previous-rpc-attempts", b"grpc-retry-pushback-ms"}
)
"""Keys that applications may read and write although the prefix `grpc-` is reserved (gRFC A6)."""
_HTTP_FIELDS = frozenset({b"te", b"content-type", b"content-length", b"user-agent", b"host"})
"""Fields that HTTP and gRPC use themselves."""
_RESERVED_KEYS = CONNECTION_SPECIFIC_FIELDS | _HTTP_FIELDS
_KEY_OCTETS = b"-._0123456789abcdefghijklmnopqrstuvwxyz"


class ReceivedText(str):
    """A received metadata key or value that gRPC does not allow programs to write.

    HTTP/2 peers send more than gRPC specifies: bytes beyond ASCII, tabs, other characters in names.
    Each byte is one character (Latin-1). `encode_metadata` accepts such a text and sends the same
    bytes again, so received metadata can be forwarded or echoed. A text that a program derives from
    it is an ordinary `str`, to which the rules for written metadata apply.
    """

    __slots__ = ()


def encode_metadata(metadata: Metadata) -> list[HeaderField]:
    """Encode the metadata of an application into header fields.

    Keys and values of type `ReceivedText` are sent as they were received.

    Raises:
        ValueError: A key is reserved or no valid header name, or a text is not printable ASCII.
        TypeError: A key with the suffix `-bin` has a text, or a key without it has bytes.
    """
    return [_encode_entry(key, value) for key, value in metadata]


def _encode_entry(key: str, value: str | bytes) -> HeaderField:
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


# A program writes few distinct keys, and the same ones in every call.
@lru_cache(256)
def _encode_key(key: str) -> bytes:
    if not isinstance(key, str):
        raise TypeError(f"metadata key {key!r} must be str")
    name = (key.lower() if key.isascii() else key).encode("utf-8", "replace")
    has_reserved_prefix = name.startswith(b"grpc-") and name not in _ALLOWED_GRPC_KEYS
    if has_reserved_prefix or name in _RESERVED_KEYS:
        raise ValueError(f"metadata key {key!r} is reserved, as is all that begins with 'grpc-'")
    if not name or name.translate(None, _KEY_OCTETS):
        text = "only letters, digits, '-', '_' and '.' may be used"
        raise ValueError(f"metadata key {key!r}: {text}")
    return name


def encode_received_metadata(metadata: Metadata) -> list[HeaderField]:
    """Encode the metadata of a received call, without the checks of `encode_metadata`."""
    return [
        (key.encode("latin-1"), encode_binary(v) if isinstance(v, bytes) else v.encode("latin-1"))
        for key, v in metadata
    ]


def parse_metadata(fields: Iterable[HeaderField]) -> tuple[Metadata, str]:
    """Parse the metadata among fields; and the first error as a message, empty for none."""
    out: list[tuple[str, str | bytes]] = []
    error = ""
    for name, value in fields:
        if name in _HTTP_FIELDS or (name.startswith(b"grpc-") and name not in _ALLOWED_GRPC_KEYS):
            continue
        key = name.decode("latin-1")
        if name.translate(None, _KEY_OCTETS):
            key = ReceivedText(key)
        if name.endswith(b"-bin"):
            try:
                out.extend((key, part) for part in decode_binary(value))
            except MalformedHeadersError as exc:
                error = error or f"metadata key {key!r}: {exc}"
        else:
            text = value.decode("latin-1")
            is_allowed = text.isascii() and text.isprintable()  # from space to "~"
            out.append((key, text if is_allowed else ReceivedText(text)))
    return tuple(out), error


def encode_binary(value: bytes) -> bytes:
    """Encode the value of a `-bin` field: base64 without padding."""
    return base64.b64encode(value).rstrip(b"=")


def decode_binary(value: bytes) -> list[bytes]:
    """Decode the value of a `-bin` field: comma-separated base64, with or without padding.

    Raises MalformedHeadersError.
    """
    try:
        return [_decode_base64(part.strip()) for part in value.split(b",")]
    except (binascii.Error, ValueError):
        raise MalformedHeadersError(f"binary metadata {value[:40]!r} is not base64") from None


def _decode_base64(part: bytes) -> bytes:
    part = part.rstrip(b"=")
    return base64.b64decode(part + b"=" * (-len(part) % 4), validate=True)


def get_metadata_value(key: str, metadata: Metadata) -> str | bytes | None:
    """Return the value of a key, several joined by commas; None if the key is absent."""
    values = [value for name, value in metadata if name == key]
    return values[0] if len(values) == 1 else (",".join(map(str, values)) or None)
