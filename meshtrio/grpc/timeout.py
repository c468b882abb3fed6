"""The `grpc-timeout` header: the time that a call has left, as up to eight digits and a unit.

Source: gRPC's doc/PROTOCOL-HTTP2.md, "Timeout".
"""

from __future__ import annotations

import math

from meshtrio.http2.errors import MalformedHeadersError

_MAX_TIMEOUT_VALUE = 99_999_999
_TIMEOUT_UNITS = (("u", 1e-6), ("m", 1e-3), ("S", 1.0), ("M", 60.0), ("H", 3600.0))
_MAX_TIMEOUT = _MAX_TIMEOUT_VALUE * 3600.0
_SECONDS_PER_UNIT = dict(_TIMEOUT_UNITS, n=1e-9)


def encode_timeout(seconds: float) -> str:
    """Encode a timeout in the smallest unit that eight digits suffice for, rounded up.

    Rounding up keeps the callee from giving up before the caller's own deadline.
    """
    seconds = min(max(seconds, 0.0), _MAX_TIMEOUT)
    for unit, size in _TIMEOUT_UNITS:
        count = math.ceil(seconds / size)
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
