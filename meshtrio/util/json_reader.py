"""Parsers of JSON values for `object_reader`, in the JSON form of protobuf."""

from __future__ import annotations

import re
from typing import Any

from meshtrio.util.object_reader import MismatchError, ValueParser

_DURATION = re.compile(r"(\d+(\.\d{0,9})?|\.\d{1,9})s")


def parse_string(raw: Any) -> str:
    """Return a string as it is."""
    if not isinstance(raw, str):
        raise MismatchError("must be a string")
    return raw


def parse_boolean(raw: Any) -> bool:
    """Return a boolean as it is."""
    if not isinstance(raw, bool):
        raise MismatchError("must be true or false")
    return raw


def parse_duration(raw: Any) -> float:
    """Return the seconds of protobuf's JSON form of a Duration: "1.5s"."""
    if not isinstance(raw, str) or not _DURATION.fullmatch(raw):
        raise MismatchError('must be a duration in seconds like "1.5s"')
    return float(raw[:-1])


def integer_parser(minimum: int, maximum: int | None = None) -> ValueParser[int]:
    """Return a parser of whole numbers, which may be strings of digits."""

    def parse(raw: Any) -> int:
        # Protobuf's JSON form writes numbers of 64 bits as strings.
        value = int(raw) if isinstance(raw, str) and raw.isdigit() else raw
        whole = isinstance(value, int) and not isinstance(value, bool)
        if not whole or value < minimum or (maximum is not None and value > maximum):
            bound = f"at least {minimum}" if maximum is None else f"between {minimum} and {maximum}"
            raise MismatchError(f"must be a whole number, {bound}")
        return int(value)

    return parse


def number_parser(
    minimum: float, maximum: float | None = None, *, inclusive: bool = False
) -> ValueParser[float]:
    """Return a parser of finite numbers; `inclusive` includes the minimum."""

    def parse(raw: Any) -> float:
        good = isinstance(raw, (int, float)) and not isinstance(raw, bool)
        if not good or raw < minimum or (raw == minimum and not inclusive) or raw == float("inf"):
            raise MismatchError(f"must be a number {'from' if inclusive else 'above'} {minimum:g}")
        if maximum is not None and raw > maximum:
            raise MismatchError(f"must be at most {maximum:g}")
        return float(raw)

    return parse


def parse_fraction(raw: Any) -> float:
    """Return a number between 0 and 1."""
    good = isinstance(raw, (int, float)) and not isinstance(raw, bool)
    if not good or not 0 <= raw <= 1:
        raise MismatchError("must be between 0 and 1")
    return float(raw)
