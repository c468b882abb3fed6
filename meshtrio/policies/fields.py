"""Reading objects of JSON: every mistake is noted with where it is, and reading goes on."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar("T")
Parse = Callable[[Any], T]
"""Gives the value, or raises ValueError with a phrase: "must be …"."""

_DURATION = re.compile(r"(\d+(\.\d{0,9})?|\.\d{1,9})s")
_STATUS_NAMES = (
    "OK",
    "CANCELLED",
    "UNKNOWN",
    "INVALID_ARGUMENT",
    "DEADLINE_EXCEEDED",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "ABORTED",
    "OUT_OF_RANGE",
    "UNIMPLEMENTED",
    "INTERNAL",
    "UNAVAILABLE",
    "DATA_LOSS",
    "UNAUTHENTICATED",
)


class Fields:
    """One object and where it stands; `problems` takes what is wrong with it."""

    def __init__(self, raw: Any, where: str, problems: list[str]) -> None:
        self._where = where
        self._problems = problems
        self._taken: set[str] = set()
        self._raw: dict[str, Any] = {}
        if isinstance(raw, dict):
            self._raw = raw
        else:
            self.problem("", f"must be an object, not {raw!r}")

    def problem(self, key: str, what: str) -> None:
        self._problems.append(f"{self._where}{'.' if key else ''}{key}: {what}")

    def names(self) -> list[str]:
        return list(self._raw)

    def take(
        self, key: str, parse: Parse[Any], default: Any = None, *, required: bool = False
    ) -> Any:
        """The value of a key; the default where it is missing or wrong."""
        self._taken.add(key)
        raw = self._raw.get(key)
        if raw is None:
            if required:
                self.problem(key, "is missing")
            return default
        try:
            return parse(raw)
        except ValueError as exc:
            self.problem(key, f"{exc}, not {raw!r}")
            return default

    def object(self, key: str, read: Callable[[Fields], T]) -> T | None:
        """An object below this one, read to its end; None where it is missing."""
        self._taken.add(key)
        if self._raw.get(key) is None:
            return None
        fields = Fields(self._raw[key], f"{self._where}.{key}", self._problems)
        found = read(fields)
        fields.finish()
        return found

    def objects(self, key: str) -> list[Fields]:
        """The objects of a list below this one; who reads them calls `finish`."""
        raw = self.take(key, listed, [])
        where = f"{self._where}.{key}"
        return [Fields(each, f"{where}[{n}]", self._problems) for n, each in enumerate(raw)]

    def finish(self) -> None:
        """Note the keys that nobody has asked for."""
        for key in self._raw:
            if key not in self._taken:
                self.problem(key, f"is not known; there are {', '.join(sorted(self._taken))}")


def listed(raw: Any) -> list[Any]:
    if not isinstance(raw, list):
        raise ValueError("must be a list")
    return raw


def text(raw: Any) -> str:
    if not isinstance(raw, str):
        raise ValueError("must be a string")
    return raw


def truth(raw: Any) -> bool:
    if not isinstance(raw, bool):
        raise ValueError("must be true or false")
    return raw


def duration(raw: Any) -> float:
    """Seconds, from protobuf's JSON form of a Duration: "1.5s"."""
    if not isinstance(raw, str) or not _DURATION.fullmatch(raw):
        raise ValueError('must be a duration in seconds like "1.5s"')
    return float(raw[:-1])


def integer(least: int, most: int | None = None) -> Parse[int]:
    def parse(raw: Any) -> int:
        # Protobuf's JSON form has numbers of 64 bits as strings.
        value = int(raw) if isinstance(raw, str) and raw.isdigit() else raw
        whole = isinstance(value, int) and not isinstance(value, bool)
        if not whole or value < least or (most is not None and value > most):
            bound = f"at least {least}" if most is None else f"between {least} and {most}"
            raise ValueError(f"must be a whole number, {bound}")
        return int(value)

    return parse


def number(above: float, most: float | None = None, *, zero: bool = False) -> Parse[float]:
    def parse(raw: Any) -> float:
        good = isinstance(raw, (int, float)) and not isinstance(raw, bool)
        if not good or raw < above or (raw == above and not zero) or raw == float("inf"):
            raise ValueError(f"must be a number {'from' if zero else 'above'} {above:g}")
        if most is not None and raw > most:
            raise ValueError(f"must be at most {most:g}")
        return float(raw)

    return parse


def fraction(raw: Any) -> float:
    good = isinstance(raw, (int, float)) and not isinstance(raw, bool)
    if not good or not 0 <= raw <= 1:
        raise ValueError("must be between 0 and 1")
    return float(raw)


def codes(raw: Any) -> frozenset[int]:
    """Status codes by name or number, at least one."""
    if not isinstance(raw, list) or not raw:
        raise ValueError("must be a list of status codes")
    return frozenset(map(_code, raw))


def _code(raw: Any) -> int:
    if isinstance(raw, str) and raw.upper() in _STATUS_NAMES:
        return _STATUS_NAMES.index(raw.upper())
    if isinstance(raw, int) and not isinstance(raw, bool) and 0 <= raw < len(_STATUS_NAMES):
        return raw
    raise ValueError('must be status codes like "UNAVAILABLE"')
