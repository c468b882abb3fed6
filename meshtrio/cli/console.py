"""Lines of structured logging as people read them, and the console form of the log of `serve`."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterator
from typing import Any

from meshtrio.supervise.said import Said
from meshtrio.telemetry.logs.records import message_of
from meshtrio.texts import visible

_MOST_LINES = 300
"""Of one record: what comes on one line may be thousands of them."""
_PLAIN_VALUE = re.compile(r"[^\s\"'={}\[\],\x00-\x1f\x7f-\x9f]+")


class ConsoleFormatter(logging.Formatter):
    """A plugin's output is marked with its name, the mesh's own log is not."""

    def __init__(self) -> None:
        super().__init__("%(message)s", "%H:%M:%S")

    def format(self, record: logging.LogRecord) -> str:
        """Every line has the mark, so that no text can pass for a record of another's."""
        known = vars(record)
        if not record.name.startswith("meshtrio.plugin."):
            level = "" if record.levelno < logging.WARNING else f"{record.levelname.lower()}: "
            mark, lines = f"mesh: {level}", self._lines(record)
        else:
            mark = visible(f"{known['plugin']}/{known['instance']} | ")
            structured = known["fields"] is not None
            lines = lines_of(_said(record)) if structured else self._lines(record)
        first, *others = lines
        time = f"{self.formatTime(record, self.datefmt)}.{int(record.msecs):03d} "
        return "\n".join([time + mark + first, *(" " * len(time) + mark + each for each in others)])

    def _lines(self, record: logging.LogRecord) -> list[str]:
        """The message, the exception and the stack."""
        return [visible(line) for line in super().format(record).split("\n")]


def _said(record: logging.LogRecord) -> Said:
    known = vars(record)
    beside = {key: known[key] for key in ("logger", "trace_id", "span_id", "fields")}
    return Said(message_of(record), record.levelno, exception=record.exc_text or "", **beside)


def lines_of(said: Said) -> list[str]:
    """What a line of JSON says: the message first, then what else there is, then the exception."""
    first, *others = said.lines if said.message else ["", *said.lines]
    # One without a message is shown as it is, with all that is in it.
    rest = [] if first.startswith("{") and first.endswith("}") else [*_beside(said)]
    lines = [visible(line) for line in (" ".join(filter(None, (first, *rest))), *others)]
    if len(lines) > _MOST_LINES:
        lines[_MOST_LINES:] = [f"… ({len(lines) - _MOST_LINES} more lines)"]
    return lines


def _beside(said: Said) -> Iterator[str]:
    if said.level != logging.INFO:
        yield f"[{logging.getLevelName(said.level).lower()}]"
    for key, value in (said.fields or {}).items():
        yield f"{key}={_value(value)}"
    for key in ("logger", "trace_id", "span_id"):
        if getattr(said, key):
            yield f"{key}={getattr(said, key)}"


def _value(value: Any) -> str:
    if isinstance(value, str) and _PLAIN_VALUE.fullmatch(value):
        return value
    try:
        return json.dumps(value, ensure_ascii=False, default=str)
    except (ValueError, RecursionError):
        return "…"
