"""Reads JSON objects. Errors are collected with their paths, and reading continues."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar("T")
ValueParser = Callable[[Any], T]
"""Returns the parsed value, or raises ValueError with a phrase: "must be …"."""

_DURATION = re.compile(r"(\d+(\.\d{0,9})?|\.\d{1,9})s")


class ObjectReader:
    """Reads the keys of one object.

    Every method returns a default for what is missing or invalid, and adds an error to the list
    that all readers of a document share.
    """

    def __init__(self, raw: Any, path: str, errors: list[str]) -> None:
        """Read `raw`, which has to be a dict; `path` is its place in the document."""
        self._path = path
        self._errors = errors
        self._known_keys: set[str] = set()
        self._raw: dict[str, Any] = {}
        if isinstance(raw, dict):
            self._raw = raw
        else:
            self.add_error("", f"must be an object, not {raw!r}")

    def add_error(self, key: str, message: str) -> None:
        """Add an error for a key, or for the whole object if the key is empty."""
        self._errors.append(f"{self._path}{'.' if key else ''}{key}: {message}")

    def keys(self) -> list[str]:
        """Return the keys of the object."""
        return list(self._raw)

    def get(
        self, key: str, parse: ValueParser[Any], default: Any = None, *, required: bool = False
    ) -> Any:
        """Return the parsed value of a key; the default if it is missing, null or invalid."""
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
        """Read the object of a key, and reject what `read` has not read; None if it is missing."""
        self._known_keys.add(key)
        if self._raw.get(key) is None:
            return None
        fields = ObjectReader(self._raw[key], f"{self._path}.{key}", self._errors)
        result = read(fields)
        fields.reject_unknown_keys()
        return result

    def object_readers(self, key: str) -> list[ObjectReader]:
        """Return readers of the objects in a list; callers call `reject_unknown_keys` on each."""
        raw = self.get(key, parse_list, [])
        path = f"{self._path}.{key}"
        return [ObjectReader(item, f"{path}[{i}]", self._errors) for i, item in enumerate(raw)]

    def reject_unknown_keys(self) -> None:
        """Add an error for each key that was not read."""
        for key in self._raw:
            if key not in self._known_keys:
                self.add_error(
                    key, f"is not known; there are {', '.join(sorted(self._known_keys))}"
                )


def parse_list(raw: Any) -> list[Any]:
    """Parse a list of any values."""
    if not isinstance(raw, list):
        raise ValueError("must be a list")
    return raw


def parse_string(raw: Any) -> str:
    """Parse a string."""
    if not isinstance(raw, str):
        raise ValueError("must be a string")
    return raw


def parse_boolean(raw: Any) -> bool:
    """Parse a boolean."""
    if not isinstance(raw, bool):
        raise ValueError("must be true or false")
    return raw


def parse_duration(raw: Any) -> float:
    """Parse the JSON form of protobuf's Duration, like "1.5s", into seconds."""
    if not isinstance(raw, str) or not _DURATION.fullmatch(raw):
        raise ValueError('must be a duration in seconds like "1.5s"')
    return float(raw[:-1])


def integer_parser(minimum: int, maximum: int | None = None) -> ValueParser[int]:
    """Return a parser of integers in a range, bounds included."""

    def parse(raw: Any) -> int:
        # The JSON form of protobuf has 64-bit integers as strings.
        value = int(raw) if isinstance(raw, str) and raw.isdigit() else raw
        is_integer = isinstance(value, int) and not isinstance(value, bool)
        if not is_integer or value < minimum or (maximum is not None and value > maximum):
            bound = f"at least {minimum}" if maximum is None else f"between {minimum} and {maximum}"
            raise ValueError(f"must be a whole number, {bound}")
        return int(value)

    return parse


def number_parser(
    minimum: float, maximum: float | None = None, *, inclusive: bool = False
) -> ValueParser[float]:
    """Return a parser of numbers in a range; `inclusive` is whether it includes `minimum`."""

    def parse(raw: Any) -> float:
        is_number = isinstance(raw, (int, float)) and not isinstance(raw, bool)
        if (
            not is_number
            or raw < minimum
            or (raw == minimum and not inclusive)
            or raw == float("inf")
        ):
            raise ValueError(f"must be a number {'from' if inclusive else 'above'} {minimum:g}")
        if maximum is not None and raw > maximum:
            raise ValueError(f"must be at most {maximum:g}")
        return float(raw)

    return parse


def parse_fraction(raw: Any) -> float:
    """Parse a number between 0 and 1."""
    is_number = isinstance(raw, (int, float)) and not isinstance(raw, bool)
    if not is_number or not 0 <= raw <= 1:
        raise ValueError("must be between 0 and 1")
    return float(raw)
