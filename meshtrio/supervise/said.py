"""What a line of a plugin's output says, where it is one of structured logging. Pure.

Loggers of many languages write such lines, and do not agree on names.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import attrs

from meshtrio.texts import whole

_RULE = re.compile(r"[\s|+-]*(-{4,} (\d+|\.\.\.) -{4,})?[\s|+-]*")
"""A line that only frames an exception group, as Python prints one."""
_FRAME = re.compile(r"[\s|]*\|\s")
"""What stands before the text of each other line of it."""
_LEVEL = ("level", "levelname", "severity", "lvl")
_MESSAGE = ("message", "msg", "event")
_LOGGER = ("logger", "logger_name", "loggerName")
_TRACE = ("trace_id", "traceId", "trace.id", "otelTraceID")
_SPAN = ("span_id", "spanId", "span.id", "otelSpanID")
_EXCEPTION = ("exception", "exc_info", "stack_trace", "stacktrace")
_LEVELS = {
    "TRACE": logging.DEBUG,
    "DEBUG": logging.DEBUG,
    "INFO": logging.INFO,
    "NOTICE": logging.INFO,
    "WARN": logging.WARNING,
    "WARNING": logging.WARNING,
    "ERR": logging.ERROR,
    "ERROR": logging.ERROR,
    "CRIT": logging.CRITICAL,
    "CRITICAL": logging.CRITICAL,
    "FATAL": logging.CRITICAL,
    "PANIC": logging.CRITICAL,
}


@attrs.frozen
class Said:
    """Of a line in plain text, `message` is the line, and it counts as INFO."""

    message: str
    level: int = logging.INFO
    logger: str = ""
    trace_id: str = ""
    span_id: str = ""
    exception: str = ""
    fields: Mapping[str, Any] | None = None
    """What it says beyond these; None for a line in plain text."""

    @property
    def lines(self) -> list[str]:
        """It, and the exception that it tells of, as people read them."""
        return "\n".join(filter(None, (self.message, self.exception))).rstrip("\n").split("\n")


def said_in(line: str, fields: Mapping[str, Any] | None) -> Said:
    """What a line says, which has these fields, or none where it is not a JSON object."""
    if fields is None:
        return Said(line)
    rest = dict(fields)
    level = next((rest[key] for key in _LEVEL if isinstance(rest.get(key), str)), "").upper()
    if level in _LEVELS:
        _take(rest, _LEVEL)
    message = _take(rest, _MESSAGE)
    return Said(
        message=whole(line) if message is None else message,
        level=_LEVELS.get(level, logging.INFO),
        logger=_take(rest, _LOGGER) or "",
        trace_id=_take(rest, _TRACE) or "",
        span_id=_take(rest, _SPAN) or "",
        exception=_take(rest, _EXCEPTION) or "",
        fields=rest,
    )


def last_line(lines: Sequence[str]) -> str:
    """The last line that says something, "" if none does: in most languages it names the error.

    Without the frame that Python draws around an exception group, with which trio's programs end.
    """
    framed = False
    for line in reversed(lines):
        if _RULE.fullmatch(line):
            framed = framed or "+-" in line
        elif any(character.isalnum() for character in line):
            return (_FRAME.sub("", line, count=1) if framed else line).strip()
    return next((line.strip() for line in reversed(lines) if line.strip(" \t|+-")), "")


def _take(fields: dict[str, Any], names: Iterable[str]) -> str | None:
    """Take the first of these out that is a text."""
    for name in names:
        if isinstance(fields.get(name), str):
            return whole(fields.pop(name))
    return None
