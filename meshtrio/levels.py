"""How much a record of a log matters, by the names that configs, commands and calls have for it."""

from __future__ import annotations

import logging
from enum import Enum

from meshtrio.errors import UsageError


class LogLevel(Enum):
    """The standard library's levels, but for `critical`: a log without its errors is none."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"

    @property
    def number(self) -> int:
        """As the standard library has it."""
        return logging.getLevelNamesMapping()[self.name]

    @classmethod
    def named(cls, name: str | LogLevel) -> LogLevel:
        """Raises UsageError, with the names there are, for one that is none of them."""
        try:
            return cls(name)
        except ValueError:
            known = ", ".join(level.value for level in cls)
            raise UsageError(f"{name!r} is no log level; the levels are: {known}") from None
