"""Reading the tables of TOML and the objects of JSON, reporting every error with its location.

A reader stands for one object. `get` returns the value of a key, parsed, or a default if it is
missing or wrong; errors go to a list that all readers of a document share. When all keys have been
read, `reject_unknown_keys` reports the others.
"""

from __future__ import annotations

import operator
import re
import sys
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

from meshtrio.util.record import FrozenRecord

T = TypeVar("T")
_DURATION = re.compile(r"(\d+(\.\d{0,9})?|\.\d{1,9})s")

ValueParser = Callable[[Any], T]
"""Converts a value. Raises ValueError, or MismatchError if the value is to be shown with it."""


class MismatchError(ValueError):
    """The value is not what is expected; the text is "must be …", to which the value is added."""


class TooManyErrorsError(Exception):
    """An ErrorList is full; the rest of the document is not read."""


class ErrorList(list[str]):
    """The errors of a document, up to a maximum: a file that is no config has one on each line."""

    def __init__(self, max_errors: int) -> None:
        super().__init__()
        self._max_errors = max_errors

    def append(self, error: str) -> None:
        """Add an error. Raises TooManyErrorsError if it is the last one."""
        super().append(error)
        if len(self) >= self._max_errors:
            raise TooManyErrorsError


class DocumentFormat(FrozenRecord):
    """How errors of a format are worded."""

    separator: str
    """Separates the keys of a path."""
    object_name: str
    """What an object is called, with its article."""
    describe: Callable[[Any], str]
    """Describes a value that is wrong."""


JSON = DocumentFormat(".", "an object", repr)


class ObjectReader:
    """Reads one object of a document."""

    def __init__(
        self, raw: Any, path: str, errors: list[str], syntax: DocumentFormat = JSON
    ) -> None:
        """Report an error if the value is not an object, and read it as an empty one."""
        self._path = path
        self._errors = errors
        self._syntax = syntax
        self._known_keys: dict[str, None] = {}
        self._raw: dict[str, Any] = {}
        if isinstance(raw, dict):
            self._raw = raw
        else:
            self.add_error("", f"must be {syntax.object_name}, not {syntax.describe(raw)}")

    def path(self, key: str) -> str:
        """Return the path of a key, or that of the object itself for ""."""
        return f"{self._path}{self._syntax.separator}{key}" if key else self._path

    def add_error(self, key: str, message: str) -> None:
        """Report an error of a key, or of the object itself for ""."""
        self._errors.append(f"{self.path(key)}: {message}")

    def keys(self) -> list[str]:
        return list(self._raw)

    def get(
        self,
        key: str,
        parse: ValueParser[Any],
        default: Any = None,
        *,
        required: bool = False,
        hint: str = "",
    ) -> Any:
        """Return the parsed value of a key; the default, with an error reported, if it is wrong.

        `required`: report an error if it is missing. `hint`: is added to errors of the value.
        """
        self._known_keys[key] = None
        raw = self._raw.get(key)
        if raw is None:
            if required:
                self.add_error(key, "is missing")
            return default
        try:
            return parse(raw)
        except MismatchError as exc:
            message = f"{exc}, not {self._syntax.describe(raw)}"
        except ValueError as exc:
            message = str(exc)
        self.add_error(key, f"{message}; {hint}" if hint else message)
        return default

    def read_object(self, key: str, read: Callable[[ObjectReader], T]) -> T | None:
        """Read an object below this one completely; None if it is missing or not an object."""
        self._known_keys[key] = None
        raw = self._raw.get(key)
        if raw is None:
            return None
        reader = ObjectReader(raw, self.path(key), self._errors, self._syntax)
        if not isinstance(raw, dict):
            return None
        found = read(reader)
        reader.reject_unknown_keys()
        return found

    def object_readers(self, key: str) -> list[ObjectReader]:
        """Return readers of a list of objects; `reject_unknown_keys` is left to the caller."""
        raw = self.get(key, parse_list, [])
        return [
            ObjectReader(each, f"{self.path(key)}[{index}]", self._errors, self._syntax)
            for index, each in enumerate(raw)
        ]

    def reject_unknown_keys(self) -> None:
        """Report the keys that were not read."""
        for key in self._raw:
            if key not in self._known_keys:
                self.add_error(key, describe_unknown_key(key, self._known_keys))


def describe_unknown_key(key: str, known: Iterable[str]) -> str:
    """Return the error for an unknown key, with the nearest known key or all of them."""
    import difflib  # Only for a mistake in a config.

    close = difflib.get_close_matches(key, list(known), n=1)
    hint = f"did you mean {close[0]!r}?" if close else f"known are {', '.join(known)}"
    return f"is not a key that meshtrio knows; {hint}"


# -- parsers of JSON values, in the JSON form of protobuf --


def _type_parser(kind: type[T], name: str) -> ValueParser[T]:
    """Return a parser of values that have a type."""

    def parse(raw: Any) -> T:
        if not isinstance(raw, kind):
            raise MismatchError(f"must be {name}")
        return raw

    return parse


parse_list: ValueParser[list[Any]] = _type_parser(list, "a list")
parse_string = _type_parser(str, "a string")
parse_boolean = _type_parser(bool, "true or false")


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
    is_enough = operator.ge if inclusive else operator.gt

    def parse(raw: Any) -> float:
        if not _is_number(raw) or not is_enough(raw, minimum) or raw > sys.float_info.max:
            raise MismatchError(f"must be a number {'from' if inclusive else 'above'} {minimum:g}")
        if maximum is not None and raw > maximum:
            raise MismatchError(f"must be at most {maximum:g}")
        return float(raw)

    return parse


def parse_fraction(raw: Any) -> float:
    if not _is_number(raw) or not 0 <= raw <= 1:
        raise MismatchError("must be between 0 and 1")
    return float(raw)


def _is_number(raw: Any) -> bool:
    return isinstance(raw, (int, float)) and not isinstance(raw, bool)
