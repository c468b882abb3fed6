"""The values of two header fields: `grpc-timeout` and `grpc-message`.

The timeout is the time that a call has left, as up to eight digits and a unit; the message of a
status is percent-encoded.

Source: gRPC's doc/PROTOCOL-HTTP2.md, "Timeout" and "Status-Message".
"""

from __future__ import annotations

import math
from urllib.parse import quote_from_bytes, unquote_to_bytes

from meshtrio.http2.errors import MalformedHeadersError
from meshtrio.http2.limits import UNLIMITED

_MAX_TIMEOUT_VALUE = 99_999_999
_SIGNIFICANT_DIGITS = 3
_MAX_EXACT_COUNT = 10**_SIGNIFICANT_DIGITS - 1
_TIMEOUT_UNITS = (("u", 1e-6), ("m", 1e-3), ("S", 1.0), ("M", 60.0), ("H", 3600.0))
_MAX_TIMEOUT = _MAX_TIMEOUT_VALUE * 3600.0
_SECONDS_PER_UNIT = dict(_TIMEOUT_UNITS, n=1e-9)
_UNESCAPED = "".join(map(chr, range(0x20, 0x7F))).replace("%", "")
"""Characters that are sent as they are."""
_ELLIPSIS = "…"
_ELLIPSIS_SIZE = len("%E2%80%A6")


def encode_timeout(seconds: float) -> str:
    """Encode a timeout in the smallest unit that eight digits suffice for, rounded up.

    Rounding up keeps the callee from giving up before the caller's own deadline. To three digits,
    so that most calls with the same timeout have the same header block, which the peer has decoded
    before, although a few microseconds of the time have passed. gRPC's C core does so, too.
    """
    seconds = min(max(seconds, 0.0), _MAX_TIMEOUT)
    for unit, size in _TIMEOUT_UNITS:
        count = math.ceil(seconds / size)
        if count > _MAX_EXACT_COUNT:
            step = 10 ** (len(str(count)) - _SIGNIFICANT_DIGITS)
            count = -(-count // step) * step
        if count <= _MAX_TIMEOUT_VALUE:
            return f"{count}{unit}"
    return f"{_MAX_TIMEOUT_VALUE}H"


def decode_timeout(value: bytes) -> float:
    """Decode a timeout to seconds. Raises MalformedHeadersError."""
    digits, unit = value[:-1], value[-1:].decode("latin-1")
    if not 1 <= len(digits) <= 8 or not digits.isdigit() or unit not in _SECONDS_PER_UNIT:
        raise MalformedHeadersError(
            f"grpc-timeout {value[:40]!r} is not up to eight digits and a unit"
        )
    return int(digits) * _SECONDS_PER_UNIT[unit]


def encode_status_message(text: str, max_size: int = UNLIMITED) -> bytes:
    """Percent-encode a status message: all but printable ASCII, and `%` itself.

    Args:
        text: The status message. Lone surrogates become `?`.
        max_size: Maximum size of the encoded message in bytes, at least that of an ellipsis. A
            longer text is cut between characters and ends in an ellipsis; the work is bounded by
            `max_size` rather than by the length of the text. By default there is no limit.
    """
    if len(text) <= max_size:
        encoded = _percent_encode(text)
        if len(encoded) <= max_size:
            return encoded
    return _percent_encode(_truncate(text, max_size))


def _truncate(text: str, max_size: int) -> str:
    """Cut a text so that it takes at most `max_size` bytes when encoded, ellipsis included."""
    remaining = max_size - _ELLIPSIS_SIZE
    length, is_leading = 0, True
    for character in text[:max_size]:
        # Spaces are escaped at the ends of a value only, and the end is the ellipsis.
        is_leading = is_leading and character == " "
        is_unescaped = character in _UNESCAPED and not is_leading
        remaining -= 1 if is_unescaped else 3 * len(character.encode("utf-8", "replace"))
        if remaining < 0:
            break
        length += 1
    return text[:length] + _ELLIPSIS


def _percent_encode(text: str) -> bytes:
    encoded = quote_from_bytes(text.encode("utf-8", "replace"), safe=_UNESCAPED)
    return escape_outer_whitespace(encoded.encode())


def escape_outer_whitespace(value: bytes) -> bytes:
    """Percent-encode white space at the ends of an encoded message, where HTTP/2 forbids it."""
    body = value.strip(b" \t")
    if len(body) == len(value):
        return value
    before = len(value) - len(value.lstrip(b" \t")) if body else len(value)
    after = value[before + len(body) :]
    return _percent_encode_all(value[:before]) + body + _percent_encode_all(after)


def _percent_encode_all(raw: bytes) -> bytes:
    return b"".join(b"%%%02X" % byte for byte in raw)


def decode_status_message(value: bytes) -> str:
    """Decode a status message. Invalid escapes are kept and invalid UTF-8 is replaced."""
    return unquote_to_bytes(value).decode("utf-8", "replace")
