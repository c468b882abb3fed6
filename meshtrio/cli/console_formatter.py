"""Structured log lines for the console, and the console format of the log of `serve`."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterator
from typing import Any

from meshtrio.supervisor.log_line import ParsedLine
from meshtrio.telemetry.logs.formatters import get_message
from meshtrio.util.text import escape_unprintable

_MAX_RECORD_LINES = 300
"""Maximum number of lines printed for one record; one line of JSON may contain thousands."""
_PLAIN_VALUE = re.compile(r"[^\s\"'={}\[\],\x00-\x1f\x7f-\x9f]+")


class ConsoleFormatter(logging.Formatter):
    """Prefixes a plugin's output with its name and instance, and the mesh's own log with "mesh"."""

    def __init__(self) -> None:
        super().__init__("%(message)s", "%H:%M:%S")

    def format(self, record: logging.LogRecord) -> str:
        """Format a record, with the prefix on each line, so that no text can pass for a record."""
        known = vars(record)
        if not record.name.startswith("meshtrio.plugin."):
            level = "" if record.levelno < logging.WARNING else f"{record.levelname.lower()}: "
            mark, lines = f"mesh: {level}", self._format_lines(record)
        else:
            mark = escape_unprintable(f"{known['plugin']}/{known['instance']} | ")
            structured = known["fields"] is not None
            lines = (
                format_parsed_line(_parsed_line_from_record(record))
                if structured
                else self._format_lines(record)
            )
        first, *others = lines
        time = f"{self.formatTime(record, self.datefmt)}.{int(record.msecs):03d} "
        return "\n".join([time + mark + first, *(" " * len(time) + mark + each for each in others)])

    def _format_lines(self, record: logging.LogRecord) -> list[str]:
        """Return the lines of the message, the exception and the stack."""
        return [escape_unprintable(line) for line in super().format(record).split("\n")]


def _parsed_line_from_record(record: logging.LogRecord) -> ParsedLine:
    known = vars(record)
    extras = {key: known[key] for key in ("logger", "trace_id", "span_id", "fields")}
    return ParsedLine(
        get_message(record), record.levelno, exception=record.exc_text or "", **extras
    )


def format_parsed_line(parsed_line: ParsedLine) -> list[str]:
    """What a line of JSON says: the message first, then what else there is, then the exception."""
    first, *others = parsed_line.lines if parsed_line.message else ["", *parsed_line.lines]
    # One without a message is shown as it is, with all that is in it.
    rest = [] if first.startswith("{") and first.endswith("}") else [*_format_fields(parsed_line)]
    lines = [escape_unprintable(line) for line in (" ".join(filter(None, (first, *rest))), *others)]
    if len(lines) > _MAX_RECORD_LINES:
        lines[_MAX_RECORD_LINES:] = [f"… ({len(lines) - _MAX_RECORD_LINES} more lines)"]
    return lines


def _format_fields(parsed_line: ParsedLine) -> Iterator[str]:
    if parsed_line.level != logging.INFO:
        yield f"[{logging.getLevelName(parsed_line.level).lower()}]"
    for key, value in (parsed_line.fields or {}).items():
        yield f"{key}={_format_value(value)}"
    for key in ("logger", "trace_id", "span_id"):
        if getattr(parsed_line, key):
            yield f"{key}={getattr(parsed_line, key)}"


def _format_value(value: Any) -> str:
    if isinstance(value, str) and _PLAIN_VALUE.fullmatch(value):
        return value
    try:
        return json.dumps(value, ensure_ascii=False, default=str)
    except (ValueError, RecursionError):
        return "…"
