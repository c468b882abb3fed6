"""What happens to plugins and what they write, as records of the standard library's logging.

Lifecycle goes to the logger `meshtrio.mesh`, output to `meshtrio.plugin.<name>`: one record for
each event and each line. Every record has `plugin`, `instance`, `pid`, `stream`, `event` (the name
of what happened) and `fields`, None where there is none. A line of JSON is taken apart: level,
message and exception become the record's, `logger`, `trace_id` and `span_id`, which no other record
has, are what it says of them, and `fields` is the rest.

`JsonFormatter` and `TraceIds` are for the handlers of any program.
"""

from __future__ import annotations

import logging
from typing import Any

from meshtrio.supervise import events
from meshtrio.supervise.said import Said
from meshtrio.supervise.words import describe, name_of, said_of
from meshtrio.telemetry.records import JsonFormatter, TraceIds
from meshtrio.telemetry.trace_ids import current_ids

__all__ = ["JsonFormatter", "TraceIds", "current_ids", "log_event"]

_mesh = logging.getLogger("meshtrio.mesh")


def log_event(event: events.Event) -> None:
    """A subscriber that logs every event."""
    if isinstance(event, events.LineWritten):
        said = said_of(event)
        _log(_logger_of(event), event, said)
    elif isinstance(event, events.LinesDropped):
        level, text = describe(event)
        _log(_logger_of(event), event, Said(text, level), name_of(event))
    else:
        level, text = describe(event)
        said = Said(f"{event.plugin}/{event.instance}: {text}", level)
        _log(_mesh, event, said, name_of(event))


def _logger_of(event: events.Event) -> logging.Logger:
    return logging.getLogger(f"meshtrio.plugin.{event.plugin}")


def _log(logger: logging.Logger, event: events.Event, said: Said, name: str | None = None) -> None:
    if not logger.isEnabledFor(said.level):
        return
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
