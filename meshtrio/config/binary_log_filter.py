"""Filters of binary logs: which calls are written, and how much of them (gRFC A16).

*                        every call, in full
*{h:256;m:1024}          256 bytes of metadata, 1024 bytes of each message
*{h}                     metadata only; {m}: messages only
pkg.Service/*,-pkg.Service/Method
                         all methods of a service except for one
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import attrs

_PATTERN = re.compile(r"(\*|[\w.]+/(?:\w+|\*))(\{.*\})?", re.ASCII)
_LIMITS_PATTERN = re.compile(
    r"\{(?:h(?::(?P<h>[0-9]{1,18}))?(?:;m(?::(?P<m>[0-9]{1,18}))?)?|m(?::(?P<only_m>[0-9]{1,18}))?)\}"
)


@attrs.frozen
class MethodLogLimits:
    """Maximum number of bytes that are written; None is no limit."""

    max_header_bytes: int | None = None
    """Bytes of metadata of one header block, keys and values."""
    max_message_bytes: int | None = None
    """Bytes of one message."""


@attrs.frozen
class BinaryLogFilter:
    """A parsed filter; the most specific pattern applies."""

    limits: Mapping[str, MethodLogLimits | None]
    """Limits by pattern: `*`, `pkg.Service/*` or `pkg.Service/Method`; None if its calls are not
    written."""

    @classmethod
    def parse(cls, text: str) -> BinaryLogFilter:
        """Parse a filter; an empty one selects no calls. Raises ValueError with the pattern."""
        limits: dict[str, MethodLogLimits | None] = {}
        for pattern in text.split(",") if text else ():
            excluded = pattern.startswith("-")
            parts = _PATTERN.fullmatch(pattern[excluded:])
            if parts is None:
                raise ValueError(
                    f"{pattern!r}: expected *, Service/*, Service/Method or -Service/Method, "
                    "optionally with {h:bytes;m:bytes}"
                )
            name, rest = parts[1], parts[2] or ""
            if excluded and (name.endswith("*") or rest):
                raise ValueError(
                    f"{pattern!r}: only single methods can be excluded, as -Service/Method"
                )
            if name in limits:
                raise ValueError(f"{pattern!r}: there already is a pattern for {name}")
            limits[name] = None if excluded else _parse_limits(pattern, rest)
        return cls(limits)

    def method_limits(self, service: str, method: str) -> MethodLogLimits | None:
        """Return the limits of a method's calls; None if they are not written."""
        names = (f"{service}/{method}", f"{service}/*", "*")
        return next((self.limits[name] for name in names if name in self.limits), None)


def _parse_limits(pattern: str, text: str) -> MethodLogLimits:
    """Parse "{h:256;m:1024}"; of h and m, the one that is absent is not written."""
    if not text:
        return MethodLogLimits()
    found = _LIMITS_PATTERN.fullmatch(text)
    if found is None:
        raise ValueError(
            f"{pattern!r}: expected {{h}}, {{m}} or {{h;m}}, optionally with :bytes, not {text!r}"
        )
    headers, messages, only_messages = (
        None if digits is None else int(digits) for digits in found.group("h", "m", "only_m")
    )
    if text.startswith("{m"):
        return MethodLogLimits(max_header_bytes=0, max_message_bytes=only_messages)
    return MethodLogLimits(headers, messages if ";" in text else 0)
