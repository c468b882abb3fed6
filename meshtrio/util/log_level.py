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
    def parse(cls, name: str | LogLevel) -> LogLevel:
        """Raises UsageError, with the names there are, for one that is none of them."""
        try:
            return cls(name)
        except ValueError:
            known = ", ".join(level.value for level in cls)
            raise UsageError(f"{name!r} is no log level; the levels are: {known}") from None


class ProcessLogLevel:
    """From which level on this process logs: that of the root logger, whoever has set it up."""

    def __init__(self) -> None:
        self._initial = logging.getLogger().level

    @property
    def name(self) -> str:
        """The one that is in force: `debug`, or another name of the standard library's."""
        return logging.getLevelName(logging.getLogger().getEffectiveLevel()).lower()

    def set(self, name: str) -> None:
        """Log from a level on; "" for the one that the program had set by itself.

        Raises UsageError for a name that is none.
        """
        number = LogLevel.parse(name).number if name else self._initial
        logging.getLogger().setLevel(number)
        silence_hpack()


def silence_hpack() -> None:
    """Keep the decoder of headers from logging each of them, with whatever is secret in it.

    A program that has set a level for it is left alone.
    """
    logger = logging.getLogger("hpack")
    if logger.level == logging.NOTSET:
        logger.setLevel(logging.INFO)
