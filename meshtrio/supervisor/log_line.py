"""Parses lines of structured logging (JSON) in a plugin's output. Pure.

The keys are those that common loggers of many languages use; they do not agree on names.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import attrs

from meshtrio.util.text import replace_surrogates

_GROUP_BORDER = re.compile(r"[\s|+-]*(-{4,} (\d+|\.\.\.) -{4,})?[\s|+-]*")
"""Matches a line that only frames an exception group, as Python prints it."""
_GROUP_MARGIN = re.compile(r"[\s|]*\|\s")
"""Matches the margin of a line of an exception group, before its text."""
_LEVEL_KEYS = ("level", "levelname", "severity", "lvl")
_MESSAGE_KEYS = ("message", "msg", "event")
_TEXT_KEYS = {
    "logger": ("logger", "logger_name", "loggerName"),
    "trace_id": ("trace_id", "traceId", "trace.id", "otelTraceID"),
    "span_id": ("span_id", "spanId", "span.id", "otelSpanID"),
    "exception": ("exception", "exc_info", "stack_trace", "stacktrace"),
}
"""Keys by the attribute of `ParsedLine`."""
_LEVELS = {
    **dict.fromkeys(("TRACE", "DEBUG"), logging.DEBUG),
    **dict.fromkeys(("INFO", "NOTICE"), logging.INFO),
    **dict.fromkeys(("WARN", "WARNING"), logging.WARNING),
    **dict.fromkeys(("ERR", "ERROR"), logging.ERROR),
    **dict.fromkeys(("CRIT", "CRITICAL", "FATAL", "PANIC"), logging.CRITICAL),
}


@attrs.frozen
class ParsedLine:
    """A line of output as a log record."""

    message: str
    """The message; for a line in plain text, the line."""
    level: int = logging.INFO
    """The level, of the standard library's logging; plain text has INFO."""
    logger: str = ""
    """The name of the logger."""
    trace_id: str = ""
    """The trace that the line belongs to, in hexadecimal."""
    span_id: str = ""
    """The span that the line belongs to, in hexadecimal."""
    exception: str = ""
    """The exception, with its traceback."""
    fields: Mapping[str, Any] | None = None
    """The remaining fields of the JSON object; None for a line in plain text."""

    @property
    def lines(self) -> list[str]:
        """The lines of the message and the exception."""
        return "\n".join(filter(None, (self.message, self.exception))).rstrip("\n").split("\n")


def parse_line(line: str, fields: Mapping[str, Any] | None) -> ParsedLine:
    """Parse a line; `fields` are its fields if it is a JSON object, otherwise None."""
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
        fields=rest,
        **{name: _pop_first_string(rest, keys) or "" for name, keys in _TEXT_KEYS.items()},
    )


def find_last_line(lines: Sequence[str]) -> str:
    """Find the last line that has text, which in most languages names the error; "" if none has.

    The frame that Python draws around an exception group, with which trio's programs end, is left
    out.
    """
    framed = False
    for line in reversed(lines):
        if _GROUP_BORDER.fullmatch(line):
            framed = framed or "+-" in line
        elif any(character.isalnum() for character in line):
            return (_GROUP_MARGIN.sub("", line, count=1) if framed else line).strip()
    return next((line.strip() for line in reversed(lines) if line.strip(" \t|+-")), "")


def _pop_first_string(fields: dict[str, Any], names: Iterable[str]) -> str | None:
    """Remove and return the first of these fields that is a string."""
    for name in names:
        if isinstance(fields.get(name), str):
            return replace_surrogates(fields.pop(name))
    return None
