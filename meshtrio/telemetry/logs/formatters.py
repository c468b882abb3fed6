"""Formatters that write log records as lines of JSON, with the ids of trace and span.

For the handlers of any program.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from meshtrio.telemetry.logs.json_lines import format_json_line, safe_str
from meshtrio.telemetry.logs.trace_ids import current_trace_ids

_MAX_LINE_LENGTH = 64 * 1024
"""Default maximum length of a line, in bytes."""
_PLUGIN_KEYS = ("event", "plugin", "instance", "pid", "stream")
_STANDARD_ATTRIBUTES = frozenset(
    {*vars(logging.makeLogRecord({})), "asctime", "message", "span_id", "taskName", "trace_id"}
)
"""Attributes that every record has; all others were passed as `extra`."""
_TOP_LEVEL_KEYS = frozenset({*_PLUGIN_KEYS, "fields", "logger"})
"""Attributes that `JsonFormatter` writes under keys of their own."""


class TraceIdFilter(logging.Filter):
    """Adds `trace_id` and `span_id` to every record; empty outside of a sampled trace.

    With this filter on a handler or logger, a format may use `%(trace_id)s` and `%(span_id)s`.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        if not hasattr(record, "trace_id"):
            record.trace_id, record.span_id = current_trace_ids()
        return True


class JsonFormatter(logging.Formatter):
    """Formats a record as a JSON object in one line; keys without a value are omitted.

    Keys: `time` (RFC 3339, UTC, milliseconds), `level`, `logger`, `message`, `event`, `plugin`,
    `instance`, `pid`, `stream`, `fields` (what was passed as `extra`, or the further fields of a
    plugin's line), `trace_id`, `span_id`, `exception`. The ids are those of the call in which the
    record is formatted, unless a `TraceIdFilter` has set them before.
    """

    def __init__(self, max_length: int = _MAX_LINE_LENGTH) -> None:
        """Make a formatter.

        Args:
            max_length: Maximum length of a line, in bytes; texts are truncated to fit.
        """
        super().__init__()
        self._max_length = max_length

    def format(self, record: logging.LogRecord) -> str:
        time = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        values: dict[str, Any] = {
            "time": time.replace("+00:00", "Z"),
            "level": record.levelname,
            "logger": getattr(record, "logger", None) or record.name,
            "message": get_message(record),
        }
        values |= {key: getattr(record, key, None) for key in _PLUGIN_KEYS}
        added = {k: value for k, value in get_extra(record).items() if k not in _TOP_LEVEL_KEYS}
        values["fields"] = getattr(record, "fields", None) or added
        return self._format_line(record, values)

    def _format_line(
        self,
        record: logging.LogRecord,
        values: Mapping[str, Any],
        extra: Mapping[str, Any] | None = None,
    ) -> str:
        """Format values with the ids and the exception; those that are None or empty are omitted.

        The message is written even if it is empty.
        """
        trace_id, span_id = getattr(record, "trace_id", None), getattr(record, "span_id", None)
        if trace_id is None:
            trace_id, span_id = current_trace_ids()
        exception = record.exc_text
        if not exception and record.exc_info:
            exception = self.formatException(record.exc_info)
        exception = "\n".join(filter(None, (exception, record.stack_info)))
        ids = {"trace_id": trace_id, "span_id": span_id, "exception": exception}
        shown = {
            key: value
            for key, value in {**values, **ids}.items()
            if value is not None
            and (key == "message" or value or not isinstance(value, (str, dict)))
        }
        return format_json_line(shown, self._max_length, extra)


class PluginLineFormatter(JsonFormatter):
    """Formats a record for the mesh, which knows the time, plugin and process of each line."""

    def format(self, record: logging.LogRecord) -> str:
        values = {"level": record.levelname, "logger": record.name, "message": get_message(record)}
        return self._format_line(record, values, get_extra(record))


def get_message(record: logging.LogRecord) -> str:
    """Return the message; if its arguments do not fit the format, that with the error."""
    try:
        return record.getMessage()
    except Exception as exc:
        return f"{safe_str(record.msg)} (its arguments do not fit: {safe_str(exc)})"


def get_extra(record: logging.LogRecord) -> dict[str, Any]:
    """Return what was passed as `extra`."""
    return {key: value for key, value in vars(record).items() if key not in _STANDARD_ATTRIBUTES}
