"""Validators of attrs fields that several config classes share."""

from __future__ import annotations

from typing import Any


def at_least(minimum: float, *, inclusive: bool = True) -> Any:
    """Return a validator for numbers from `minimum` on, or above it; NaN is refused."""

    def check(_: object, __: object, value: float) -> None:
        if value != value or value < minimum or (value == minimum and not inclusive):
            bound = f"at least {minimum}" if inclusive else f"more than {minimum}"
            raise ValueError(f"must be {bound}, not {value}")

    return check


def check_fraction(_: object, __: object, value: float) -> None:
    """Validate a number from 0 to 1."""
    if not 0 <= value <= 1:
        raise ValueError(f"must be between 0 and 1, not {value}")
