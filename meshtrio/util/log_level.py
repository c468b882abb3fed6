"""Log levels, by the names that configs, commands and RPCs use."""

from __future__ import annotations

import logging
from enum import Enum

from meshtrio.util.errors import UsageError


class LogLevel(Enum):
    """The levels of the standard library, except for `critical`, which would suppress errors."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"

    @property
    def number(self) -> int:
        """The numeric level of the standard library."""
        return logging.getLevelNamesMapping()[self.name]

    @classmethod
    def parse(cls, name: str | LogLevel) -> LogLevel:
        """Parse the name of a level. Raises UsageError, which lists the names."""
        try:
            return cls(name)
        except ValueError:
            known = ", ".join(level.value for level in cls)
            raise UsageError(f"unknown log level {name!r}; choose from {known}") from None


class ProcessLogLevel:
    """The log level of this process: that of the root logger."""

    def __init__(self) -> None:
        self._initial = logging.getLogger().level

    @property
    def name(self) -> str:
        """The name of the effective level in lower case, such as `debug`."""
        return logging.getLevelName(logging.getLogger().getEffectiveLevel()).lower()

    def set(self, name: str) -> None:
        """Set the level by its name; "" restores that of the program itself. Raises UsageError."""
        number = LogLevel.parse(name).number if name else self._initial
        logging.getLogger().setLevel(number)
        silence_hpack()


def silence_hpack() -> None:
    """Set the `hpack` logger to INFO, since it logs all headers at DEBUG, secrets included.

    Does nothing if the program has set a level for it.
    """
    logger = logging.getLogger("hpack")
    if logger.level == logging.NOTSET:
        logger.setLevel(logging.INFO)
