"""The log of `serve`: its format for the console, and its handler, which writes in a thread.

The reader of the log may be slow, stopped or gone, and the disk may be full. None of that may block
the mesh, which reads the plugins' output: lines that cannot be written are dropped and counted.
"""

from __future__ import annotations

import json
import logging
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from meshtrio.config import LogConfig, LogFormat
from meshtrio.supervisor.log_line import ParsedLine
from meshtrio.telemetry.logs.formatters import JsonFormatter, TraceIdFilter, get_message
from meshtrio.util.background_writer import BackgroundWriter
from meshtrio.util.log_level import silence_hpack
from meshtrio.util.text import escape_unprintable

_MAX_RECORD_LINES = 300
"""Maximum number of lines printed for one record; one line of JSON may contain thousands."""
_PLAIN_VALUE = re.compile(r"[^\s\"'={}\[\],\x00-\x1f\x7f-\x9f]+")
_MAX_QUEUED_RECORDS = 10_000
_MAX_QUEUED_CHARACTERS = 64 * 1024 * 1024
"""Maximum total length of queued records, each of which may have up to 64 KiB."""
_CLOSE_TIMEOUT = 2.0
"""Seconds to write the rest of the queue when the log is closed."""


class BackgroundLogHandler(logging.Handler):
    """A handler that writes to a descriptor from a thread and never blocks its callers."""

    def __init__(self, descriptor: int, formatter: logging.Formatter) -> None:
        super().__init__()
        self.setFormatter(formatter)
        self._descriptor = descriptor
        self._line_is_partial = False
        """True if the last write ended within a line."""
        self.rejected = 0
        """Number of records for which the queue had no room; counted with the handler's lock."""
        self.lost = 0
        """Number of records that could not be written; counted by the thread."""
        self._reported = 0
        """Number of rejected and lost records that the log mentions."""
        # No file object, whose lock the thread would hold while it blocks in write().
        self.writer = BackgroundWriter(
            self._write_record,
            name="log",
            max_size=_MAX_QUEUED_CHARACTERS,
            max_items=_MAX_QUEUED_RECORDS,
            max_batch=1,
        )

    def emit(self, record: logging.LogRecord) -> None:
        try:
            text = self.format(record)
        except Exception as exc:  # It must not reach the code that logs.
            problem = f"cannot format a record: {type(exc).__name__}: {get_message(record)}"
            text = self.format(_make_record(record.levelno, problem))
        self.rejected += not self.writer.put(text, len(text))

    def drain_and_stop(self) -> None:
        """Write what is queued, within `_CLOSE_TIMEOUT`, and drop all that follows."""
        self.writer.put("", 0)  # Reports what was dropped last.
        self.writer.close(_CLOSE_TIMEOUT)

    def _write_record(self, batch: Sequence[str]) -> None:
        lines = [text for text in batch if text]
        records, dropped = len(lines), self.rejected + self.lost - self._reported
        if dropped:
            problem = f"dropped {dropped} lines of this log"
            lines.insert(0, self.format(_make_record(logging.WARNING, problem)))
        data = "".join(f"{line}\n" for line in lines).encode(errors="replace")
        rest = data = b"\n" + data if self._line_is_partial else data
        try:
            while rest:
                rest = rest[os.write(self._descriptor, rest) :]
        except OSError:  # The disk is full, or the reader is gone.
            self._line_is_partial = self._line_is_partial or len(rest) < len(data)
            self.lost += records
        else:
            self._line_is_partial = False
            self._reported += dropped


def _make_record(level: int, text: str) -> logging.LogRecord:
    """Make a record about the log itself."""
    return logging.LogRecord("meshtrio.mesh", level, __file__, 0, "%s", (text,), None)


@contextmanager
def log_to_descriptor(descriptor: int, config: LogConfig) -> Iterator[None]:
    """Write what is logged in the block to a file descriptor."""
    is_json = config.format is LogFormat.JSON
    handler = BackgroundLogHandler(descriptor, JsonFormatter() if is_json else ConsoleFormatter())
    handler.addFilter(TraceIdFilter())
    silence_hpack()
    logging.basicConfig(level=config.level.number, handlers=[handler])
    try:
        yield
    finally:
        logging.getLogger().removeHandler(handler)
        handler.drain_and_stop()


# -- console format -------------------------------------------------------------------------


class ConsoleFormatter(logging.Formatter):
    """Prefixes a plugin's output with its name and instance, and the mesh's own log with "mesh"."""

    def __init__(self) -> None:
        super().__init__("%(message)s", "%H:%M:%S")

    def format(self, record: logging.LogRecord) -> str:
        """Format a record, with the prefix on each line, so that no text can pass for a record."""
        known = vars(record)
        if not record.name.startswith("meshtrio.plugin."):
            level = "" if record.levelno < logging.WARNING else f"{record.levelname.lower()}: "
            mark, fields = f"mesh: {level}", None
        else:
            mark = escape_unprintable(f"{known['plugin']}/{known['instance']} | ")
            fields = known["fields"]
        if fields is None:
            lines = [escape_unprintable(line) for line in super().format(record).split("\n")]
        else:
            parts = {key: known[key] for key in ("logger", "trace_id", "span_id", "fields")}
            parts["exception"] = record.exc_text or ""
            lines = format_parsed_line(ParsedLine(get_message(record), record.levelno, **parts))
        time = f"{self.formatTime(record, self.datefmt)}.{int(record.msecs):03d} "
        marks = [time, *(" " * len(time) for _ in lines[1:])]
        return "\n".join(start + mark + line for start, line in zip(marks, lines, strict=True))


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
