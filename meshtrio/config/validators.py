"""Validators and converters of attrs fields that several config classes share."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Any

import attrs

from meshtrio.util.busy_poll_setting import HIGHEST_MAX_BUSY_POLL, is_max_busy_poll

_SERVICE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]{0,255}")


# `tuple` itself as a converter would give the fields of a constructor a type that nothing fits.


def to_strings(values: Iterable[str]) -> tuple[str, ...]:
    return tuple(values)


def to_ints(values: Iterable[int]) -> tuple[int, ...]:
    return tuple(values)


def require(is_valid: Callable[[Any], object], text: str) -> Any:
    """Return a validator that accepts valid values, and None if that is the field's default.

    The error of others is `text`, with the value in place of `{}`.
    """

    def check(_: object, field: attrs.Attribute[Any], value: Any) -> None:
        if (value is not None or field.default is not None) and not is_valid(value):
            raise ValueError(text.format(value))

    return check


def at_least(minimum: float) -> Any:
    """Return a validator for numbers from `minimum` on; NaN is refused."""
    return require(lambda value: value >= minimum, f"must be at least {minimum}, not {{}}")


def between(low: int, high: int, text: str) -> Any:
    """Return a validator for numbers from `low` to `high`, which `text` describes."""
    return require(lambda value: low <= value <= high, f"must be between {text}, not {{}}")


is_positive = require(lambda value: value > 0, "must be more than 0, not {}")
is_fraction = between(0, 1, "0 and 1")
check_max_busy_poll = require(
    is_max_busy_poll, f"must be seconds between 0 and {HIGHEST_MAX_BUSY_POLL:g}, not {{}}"
)


def parsed_by(parse: Callable[[Any], object]) -> Any:
    """Return a validator for values for which `parse` raises no ValueError; or None."""

    def check(_: object, __: object, value: Any) -> None:
        if value is not None:
            parse(value)

    return check


def check_service_name(name: str) -> None:
    """Raise ValueError if a text is not the name of a service."""
    if not _SERVICE_NAME.fullmatch(name):
        raise ValueError(f"{name[:80]!r} is not the name of a service, as in plugin.echo")
