"""What happens to plugins and what they write, as records of the standard library's logging.

Lifecycle goes to the logger `meshtrio.mesh`, output to `meshtrio.plugin.<name>`: one record for
each event and each line. Every record has `plugin`, `instance`, `pid`, `stream`, `event` (the name
of what happened) and `fields`, None where there is none. A line of JSON is taken apart: level,
message and exception become the record's, `logger`, `trace_id` and `span_id`, which no other record
has, are what it says of them, and `fields` is the rest.
"""

from __future__ import annotations

import logging
from typing import Any

from meshtrio.levels import LogLevel
from meshtrio.supervise import events
from meshtrio.supervise.said import Said
from meshtrio.supervise.words import describe, name_of, said_of

_mesh = logging.getLogger("meshtrio.mesh")


def log_event(event: events.Event) -> None:
    """A subscriber that logs every event, but for lines that matter less than is wanted."""
    if isinstance(event, events.LineWritten):
        logger, said = _logger_of(event), said_of(event)
        if _is_wanted(logger, said.level, event.log_level):
            _log(logger, event, said)
        return
    level, text = describe(event)
    is_about_lines = isinstance(event, events.LinesDropped)
    logger = _logger_of(event) if is_about_lines else _mesh
    if logger.isEnabledFor(level):
        who = "" if is_about_lines else f"{event.plugin}/{event.instance}: "
        _log(logger, event, Said(who + text, level), name_of(event))


def _is_wanted(logger: logging.Logger, level: int, least: LogLevel | None) -> bool:
    """A plugin's own level goes before those of loggers: who sets `debug` wants to see it."""
    if least is None:
        return logger.isEnabledFor(level)
    return level >= least.number and level > logger.manager.disable


def _logger_of(event: events.Event) -> logging.Logger:
    return logging.getLogger(f"meshtrio.plugin.{event.plugin}")


def _log(logger: logging.Logger, event: events.Event, said: Said, name: str | None = None) -> None:
    extra: dict[str, Any] = {"plugin": event.plugin, "instance": event.instance, "event": name}
    for key in ("pid", "stream"):
        extra[key] = getattr(event, key, None)
    extra["fields"] = said.fields
    if said.fields is not None:
        extra |= {"logger": said.logger, "trace_id": said.trace_id, "span_id": said.span_id}
    # Not by logger.log, which looks for who calls it: nobody wants to know, and it is slow.
    record = logger.makeRecord(
        logger.name, said.level, __file__, 0, "%s", (said.message,), None, "log_event", extra
    )
    record.exc_text = said.exception or None
    logger.handle(record)
