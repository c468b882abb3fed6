"""What a line of a plugin's output says, where it is one of structured logging. Pure.

Loggers of many languages write such lines, and do not agree on names.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import attrs

from meshtrio.util.text import replace_surrogates

_GROUP_BORDER = re.compile(r"[\s|+-]*(-{4,} (\d+|\.\.\.) -{4,})?[\s|+-]*")
"""A line that only frames an exception group, as Python prints one."""
_GROUP_MARGIN = re.compile(r"[\s|]*\|\s")
"""What stands before the text of each other line of it."""
_LEVEL_KEYS = ("level", "levelname", "severity", "lvl")
_MESSAGE_KEYS = ("message", "msg", "event")
_LOGGER_KEYS = ("logger", "logger_name", "loggerName")
_TRACE_ID_KEYS = ("trace_id", "traceId", "trace.id", "otelTraceID")
_SPAN_ID_KEYS = ("span_id", "spanId", "span.id", "otelSpanID")
_EXCEPTION_KEYS = ("exception", "exc_info", "stack_trace", "stacktrace")
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
class ParsedLine:
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


def parse_line(line: str, fields: Mapping[str, Any] | None) -> ParsedLine:
    """What a line says, which has these fields, or none where it is not a JSON object."""
    if fields is None:
        return ParsedLine(line)
    rest = dict(fields)
    level = next((rest[key] for key in _LEVEL_KEYS if isinstance(rest.get(key), str)), "").upper()
    if level in _LEVELS:
        _pop_first_string(rest, _LEVEL_KEYS)
    message = _pop_first_string(rest, _MESSAGE_KEYS)
    return ParsedLine(
        message=replace_surrogates(line) if message is None else message,
        level=_LEVELS.get(level, logging.INFO),
        logger=_pop_first_string(rest, _LOGGER_KEYS) or "",
        trace_id=_pop_first_string(rest, _TRACE_ID_KEYS) or "",
        span_id=_pop_first_string(rest, _SPAN_ID_KEYS) or "",
        exception=_pop_first_string(rest, _EXCEPTION_KEYS) or "",
        fields=rest,
    )


def find_last_line(lines: Sequence[str]) -> str:
    """The last line that says something, "" if none does: in most languages it names the error.

    Without the frame that Python draws around an exception group, with which trio's programs end.
    """
    framed = False
    for line in reversed(lines):
        if _GROUP_BORDER.fullmatch(line):
            framed = framed or "+-" in line
        elif any(character.isalnum() for character in line):
            return (_GROUP_MARGIN.sub("", line, count=1) if framed else line).strip()
    return next((line.strip() for line in reversed(lines) if line.strip(" \t|+-")), "")


def _pop_first_string(fields: dict[str, Any], names: Iterable[str]) -> str | None:
    """Take the first of these out that is a text."""
    for name in names:
        if isinstance(fields.get(name), str):
            return replace_surrogates(fields.pop(name))
    return None
