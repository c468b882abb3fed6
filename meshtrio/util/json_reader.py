"""Reading objects of JSON: every mistake is noted with where it is, and reading goes on."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar("T")
ValueParser = Callable[[Any], T]
"""Gives the value, or raises ValueError with a phrase: "must be …"."""

_DURATION = re.compile(r"(\d+(\.\d{0,9})?|\.\d{1,9})s")


class ObjectReader:
    """One object and where it stands; `problems` takes what is wrong with it."""

    def __init__(self, raw: Any, path: str, errors: list[str]) -> None:
        self._path = path
        self._errors = errors
        self._known_keys: set[str] = set()
        self._raw: dict[str, Any] = {}
        if isinstance(raw, dict):
            self._raw = raw
        else:
            self.add_error("", f"must be an object, not {raw!r}")

    def add_error(self, key: str, message: str) -> None:
        self._errors.append(f"{self._path}{'.' if key else ''}{key}: {message}")

    def keys(self) -> list[str]:
        return list(self._raw)

    def get(
        self, key: str, parse: ValueParser[Any], default: Any = None, *, required: bool = False
    ) -> Any:
        """The value of a key; the default where it is missing or wrong."""
        self._known_keys.add(key)
        raw = self._raw.get(key)
        if raw is None:
            if required:
                self.add_error(key, "is missing")
            return default
        try:
            return parse(raw)
        except ValueError as exc:
            self.add_error(key, f"{exc}, not {raw!r}")
            return default

    def read_object(self, key: str, read: Callable[[ObjectReader], T]) -> T | None:
        """An object below this one, read to its end; None where it is missing."""
        self._known_keys.add(key)
        if self._raw.get(key) is None:
            return None
        fields = ObjectReader(self._raw[key], f"{self._path}.{key}", self._errors)
        found = read(fields)
        fields.reject_unknown_keys()
        return found

    def object_readers(self, key: str) -> list[ObjectReader]:
        """The objects of a list below this one; who reads them calls `finish`."""
        raw = self.get(key, parse_list, [])
        where = f"{self._path}.{key}"
        return [ObjectReader(each, f"{where}[{n}]", self._errors) for n, each in enumerate(raw)]

    def reject_unknown_keys(self) -> None:
        """Note the keys that nobody has asked for."""
        for key in self._raw:
            if key not in self._known_keys:
                self.add_error(
                    key, f"is not known; there are {', '.join(sorted(self._known_keys))}"
                )


def parse_list(raw: Any) -> list[Any]:
    if not isinstance(raw, list):
        raise ValueError("must be a list")
    return raw


def parse_string(raw: Any) -> str:
    if not isinstance(raw, str):
        raise ValueError("must be a string")
    return raw


def parse_boolean(raw: Any) -> bool:
    if not isinstance(raw, bool):
        raise ValueError("must be true or false")
    return raw


def parse_duration(raw: Any) -> float:
    """Seconds, from protobuf's JSON form of a Duration: "1.5s"."""
    if not isinstance(raw, str) or not _DURATION.fullmatch(raw):
        raise ValueError('must be a duration in seconds like "1.5s"')
    return float(raw[:-1])


def integer_parser(minimum: int, maximum: int | None = None) -> ValueParser[int]:
    def parse(raw: Any) -> int:
        # Protobuf's JSON form has numbers of 64 bits as strings.
        value = int(raw) if isinstance(raw, str) and raw.isdigit() else raw
        whole = isinstance(value, int) and not isinstance(value, bool)
        if not whole or value < minimum or (maximum is not None and value > maximum):
            bound = f"at least {minimum}" if maximum is None else f"between {minimum} and {maximum}"
            raise ValueError(f"must be a whole number, {bound}")
        return int(value)

    return parse


def number_parser(
    minimum: float, maximum: float | None = None, *, inclusive: bool = False
) -> ValueParser[float]:
    def parse(raw: Any) -> float:
        good = isinstance(raw, (int, float)) and not isinstance(raw, bool)
        if not good or raw < minimum or (raw == minimum and not inclusive) or raw == float("inf"):
            raise ValueError(f"must be a number {'from' if inclusive else 'above'} {minimum:g}")
        if maximum is not None and raw > maximum:
            raise ValueError(f"must be at most {maximum:g}")
        return float(raw)

    return parse


def parse_fraction(raw: Any) -> float:
    good = isinstance(raw, (int, float)) and not isinstance(raw, bool)
    if not good or not 0 <= raw <= 1:
        raise ValueError("must be between 0 and 1")
    return float(raw)
