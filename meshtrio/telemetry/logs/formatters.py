"""Formatters that write log records as lines of JSON, with the ids of trace and span.

For the handlers of any program. Values of any kind become exactly one line, of bounded length,
without ever raising. The line is ASCII, so that neither the stream's encoding nor readers that
split lines at U+2028 can break it.
"""

from __future__ import annotations

import logging
import math
import re
import sys
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

from meshtrio.rpc.context import current_context
from meshtrio.util.text import nonfinite_name, replace_surrogates

# json is imported when the first line is written: not at the start of each plugin.

_TRACEPARENT = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
_SAMPLED_FLAG = 1
_MAX_LINE_LENGTH = 64 * 1024
"""Default maximum length of a line, in bytes."""
_MAX_DEPTH = 8
_MAX_VALUES = 2000
"""Maximum number of values in a line; further ones are omitted."""
_MAX_INT_BITS = 256
_ELLIPSIS = "…"
_MIN_TEXT_LENGTH = 64
"""Characters that each top-level text may have, however long the line is."""
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


# -- values as JSON --------------------------------------------------------------------------


def format_json_line(
    values: Mapping[str, Any], max_size: int, extra: Mapping[str, Any] | None = None
) -> str:
    """Return a JSON object of at most `max_size` bytes; texts are truncated, values omitted to fit.

    `values`, a dozen at most, come first; those of `extra` follow, with `_` appended to keys that
    are in `values` too. Values that JSON cannot represent (NaN, bytes, objects, cycles) become
    text.
    """
    from json import dumps

    room = max_size
    while True:
        plain = {
            key: _truncate(_JsonSanitizer(room).sanitize(value), key, room)
            for key, value in values.items()
        }
        for key, value in _JsonSanitizer(room).sanitize_items(extra or {}):
            plain[f"{key}_" if key in values else key] = value
        line = dumps(plain, separators=(",", ":"))
        if len(line) <= max_size or not room:
            return line
        room //= 2


def _truncate(value: Any, key: str, max_length: int) -> Any:
    """Truncate a text to `max_length` characters; return other values as they are."""
    max_length = max(max_length, _MIN_TEXT_LENGTH)
    if not isinstance(value, str) or len(value) <= max_length:
        return value
    mark = f"… ({len(value) - max_length} more characters)"
    # A traceback's last line names the error.
    tail = key == "exception"
    return f"{mark} {value[-max_length:]}" if tail else f"{value[:max_length]} {mark}"


class _JsonSanitizer:
    """Converts values to ones that JSON can represent, within limits of size and number."""

    def __init__(self, max_chars: int) -> None:
        self._remaining_chars = max_chars
        self._remaining_values = min(_MAX_VALUES, max_chars)

    def sanitize(self, value: Any, depth: int = 0) -> Any:
        self._remaining_values -= 1
        if value is None or isinstance(value, bool):
            return value
        if isinstance(value, int):
            return int(value) if value.bit_length() <= _MAX_INT_BITS else self._sanitize_text(value)
        if isinstance(value, float):
            return float(value) if math.isfinite(value) else nonfinite_name(value)
        if isinstance(value, str):
            return self._sanitize_text(value) if depth else safe_str(value)
        if depth >= _MAX_DEPTH or self._remaining_values <= 0:
            return _ELLIPSIS
        if isinstance(value, Mapping):
            return dict(self.sanitize_items(value, depth + 1))
        if isinstance(value, (list, tuple, set, frozenset)):
            return [self.sanitize(each, depth + 1) for each in self._within_limit(value)]
        return self._sanitize_text(value)

    def sanitize_items(
        self, values: Mapping[Any, Any], depth: int = 1
    ) -> Iterable[tuple[str, Any]]:
        for key, value in self._within_limit(values.items()):
            yield self._sanitize_text(key), self.sanitize(value, depth)

    def _within_limit(self, values: Iterable[Any]) -> Iterable[Any]:
        for value in values:
            if self._remaining_values <= 0:
                return
            yield value

    def _sanitize_text(self, value: object) -> str:
        text, room = safe_str(value), self._remaining_chars
        self._remaining_chars -= len(text)
        if self._remaining_chars >= 0:
            return text
        self._remaining_chars = self._remaining_values = 0
        return text[:room] + _ELLIPSIS


def safe_str(value: object) -> str:
    """Return str(value) without lone surrogates; a placeholder if that raises."""
    try:
        if isinstance(value, int) and value.bit_length() > _MAX_INT_BITS:
            return hex(value)
        text = value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
    except Exception as exc:
        return f"<{type(value).__name__} that cannot be shown: {type(exc).__name__}>"
    return replace_surrogates(text)


# -- the trace and the span that the current code belongs to --


def current_trace_ids() -> tuple[str, str]:
    """Return the ids of trace and span in hexadecimal, or two empty strings.

    They are those of OpenTelemetry's current span if the program uses OpenTelemetry, else those in
    the `traceparent` of the call that is being served. A trace that is not sampled has no ids: it
    cannot be looked up, and calls may share its id (see `telemetry.traces`).
    """
    return _ids_of_opentelemetry() or _ids_of_served_call() or ("", "")


def parse_traceparent(value: object) -> tuple[str, str] | None:
    """Return the ids in a traceparent if it is sampled (W3C Trace Context, §3.2)."""
    found = _TRACEPARENT.fullmatch(value) if isinstance(value, str) else None
    if found is None:
        return None
    version, trace_id, span_id, flags, more = found.groups()
    if version == "ff" or (version == "00" and more) or not int(flags, 16) & _SAMPLED_FLAG:
        return None
    return (trace_id, span_id) if trace_id.strip("0") and span_id.strip("0") else None


def _ids_of_served_call() -> tuple[str, str] | None:
    call = current_context.get()
    metadata = () if call is None else call.custom_metadata
    return parse_traceparent(next((v for key, v in metadata if key == "traceparent"), None))


def _ids_of_opentelemetry() -> tuple[str, str] | None:
    """Return the ids of the current span, without importing OpenTelemetry."""
    trace = sys.modules.get("opentelemetry.trace")
    if trace is None:
        return None
    try:
        context = trace.get_current_span().get_span_context()
        ids = f"{context.trace_id:032x}", f"{context.span_id:016x}"
        return ids if context.is_valid and context.trace_flags & _SAMPLED_FLAG else None
    except Exception:
        return None  # It is partly imported; the record is written without ids.
