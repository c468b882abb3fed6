"""Which calls are written to a binary log, and how much of them: the filters of gRFC A16.

*                        every call, whole
*{h:256;m:1024}          256 bytes of metadata, 1024 of each message
*{h}                     metadata alone; {m} messages alone
pkg.Service/*,-pkg.Service/Method
                         all of a service but one method
"""

from __future__ import annotations

import re

import attrs

_PATTERN = re.compile(r"([\w.]+)/(\w+|\*)(\{.*\})?", re.ASCII)
_LIMITS_PATTERN = re.compile(
    r"\{(?:h(?::(?P<h>[0-9]{1,18}))?(?:;m(?::(?P<m>[0-9]{1,18}))?)?|m(?::(?P<only_m>[0-9]{1,18}))?)\}"
)


@attrs.frozen
class MethodLogLimits:
    """How much is written, in bytes; None for all there is."""

    max_header_bytes: int | None = None
    """Of the metadata of one head, keys and values."""
    max_message_bytes: int | None = None
    """Of one message."""


@attrs.frozen
class BinaryLogFilter:
    """What a filter says, by what it says it of; the most exact counts."""

    default: MethodLogLimits | None = None
    services: dict[str, MethodLogLimits] = attrs.field(factory=dict)
    methods: dict[str, MethodLogLimits | None] = attrs.field(factory=dict)
    """By "pkg.Service/Method"; None where it is not to be written."""

    @classmethod
    def parse(cls, text: str) -> BinaryLogFilter:
        """Read a filter; one that is empty lets nothing through.

        Raises ValueError, naming the pattern, for what gRFC A16 does not allow, and for two
        patterns that speak of the same.
        """
        found = BinaryLogFilter()
        for pattern in text.split(",") if text else ():
            found = found._with_pattern(pattern)
        return found

    def _with_pattern(self, pattern: str) -> BinaryLogFilter:
        if pattern.startswith("*") and not pattern.startswith("*/"):
            if self.default is not None:
                raise ValueError(f"{pattern!r}: there is another * in it")
            return attrs.evolve(self, default=_parse_limits(pattern, pattern[1:]))
        excluded = pattern.startswith("-")
        parts = _PATTERN.fullmatch(pattern[excluded:])
        if parts is None:
            raise ValueError(
                f"{pattern!r} is none of *, Service/*, Service/Method and -Service/Method, "
                "with {h:bytes;m:bytes} or without"
            )
        service, method, rest = parts[1], parts[2], parts[3] or ""
        if excluded and (method == "*" or rest):
            raise ValueError(f"{pattern!r}: what is left out is one method, as -Service/Method")
        if f"{service}/{method}" in self.methods or (method == "*" and service in self.services):
            raise ValueError(f"{pattern!r}: there is another pattern for {service}/{method}")
        amount = None if excluded else _parse_limits(pattern, rest)
        if method == "*":
            assert amount is not None
            return attrs.evolve(self, services={**self.services, service: amount})
        return attrs.evolve(self, methods={**self.methods, f"{service}/{method}": amount})

    def method_limits(self, service: str, method: str) -> MethodLogLimits | None:
        """How much is written of a method's calls; None for nothing."""
        path = f"{service}/{method}"
        if path in self.methods:
            return self.methods[path]
        return self.services.get(service, self.default)


def _parse_limits(pattern: str, text: str) -> MethodLogLimits:
    """Read "{h:256;m:1024}"; what is not named there is not written."""
    if not text:
        return MethodLogLimits()
    found = _LIMITS_PATTERN.fullmatch(text)
    if found is None:
        raise ValueError(
            f"{pattern!r}: {text!r} is none of {{h}}, {{m}} and {{h;m}}, with :bytes or without"
        )
    headers, messages, only_messages = (
        _parse_optional_int(found[name]) for name in ("h", "m", "only_m")
    )
    if text.startswith("{m"):
        return MethodLogLimits(max_header_bytes=0, max_message_bytes=only_messages)
    return MethodLogLimits(headers, messages if ";" in text else 0)


def _parse_optional_int(digits: str | None) -> int | None:
    return None if digits is None else int(digits)
