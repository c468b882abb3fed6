"""Lifecycle events and plugins' output as records of the standard library's logging.

Lifecycle events go to the logger `meshtrio.mesh`, output to `meshtrio.plugin.<name>`: one record
for each event and each line. Every record has the attributes `plugin`, `instance`, `pid`, `stream`,
`event` (the event's name) and `fields`, which are None if they do not apply. A line of JSON is
parsed: its level, message and exception become the record's; `logger`, `trace_id` and `span_id`,
which no other record has, are its own; `fields` has the rest.
"""

from __future__ import annotations

import logging
from typing import Any

from meshtrio.supervisor import events
from meshtrio.supervisor.event_text import describe_event, event_name, parse_event_line
from meshtrio.supervisor.log_line import ParsedLine
from meshtrio.util.log_level import LogLevel

_mesh_logger = logging.getLogger("meshtrio.mesh")


def log_event(event: events.LifecycleEvent) -> None:
    """Log an event, unless it is a line below the level of its plugin or logger."""
    if isinstance(event, events.LineWritten):
        logger, line = _plugin_logger(event), parse_event_line(event)
        if _is_enabled(logger, line.level, event.log_level):
            _emit_record(logger, event, line)
        return
    level, text = describe_event(event)
    is_about_lines = isinstance(event, events.LinesDropped)
    logger = _plugin_logger(event) if is_about_lines else _mesh_logger
    if logger.isEnabledFor(level):
        subject = "" if is_about_lines else f"{event.plugin}/{event.instance}: "
        _emit_record(logger, event, ParsedLine(subject + text, level), event_name(event))


def _is_enabled(logger: logging.Logger, level: int, min_level: LogLevel | None) -> bool:
    """Return whether a level is logged; the plugin's own level overrides the loggers'."""
    if min_level is None:
        return logger.isEnabledFor(level)
    return level >= min_level.number and level > logger.manager.disable


def _plugin_logger(event: events.LifecycleEvent) -> logging.Logger:
    return logging.getLogger(f"meshtrio.plugin.{event.plugin}")


def _emit_record(
    logger: logging.Logger,
    event: events.LifecycleEvent,
    line: ParsedLine,
    event_name: str | None = None,
) -> None:
    extra: dict[str, Any] = {
        "plugin": event.plugin,
        "instance": event.instance,
        "event": event_name,
        "pid": getattr(event, "pid", None),
        "stream": getattr(event, "stream", None),
        "fields": line.fields,
    }
    if line.fields is not None:
        extra |= {"logger": line.logger, "trace_id": line.trace_id, "span_id": line.span_id}
    # Not logger.log: it walks the stack for the caller, which is slow and of no use here.
    record = logger.makeRecord(
        logger.name, line.level, __file__, 0, "%s", (line.message,), None, "log_event", extra
    )
    record.exc_text = line.exception or None
    logger.handle(record)
