"""What happens to plugins and what they write, as records of the standard library's logging.

Lifecycle goes to the logger `meshtrio.mesh`, output to `meshtrio.plugin.<name>`; every record
carries `plugin`, `instance`, and where there is one `pid`, `stream` and `fields`: what a line of
JSON says, whose level and message become the record's.
"""

from __future__ import annotations

import logging

from meshtrio.supervise import events
from meshtrio.supervise.words import describe

_mesh = logging.getLogger("meshtrio.mesh")


def log_event(event: events.Event) -> None:
    """A subscriber that logs every event."""
    level, text = describe(event)
    if isinstance(event, (events.LineWritten, events.LinesDropped)):
        logger = logging.getLogger(f"meshtrio.plugin.{event.plugin}")
    else:
        logger, text = _mesh, f"{event.plugin}/{event.instance}: {text}"
    if logger.isEnabledFor(level):
        extra = {"plugin": event.plugin, "instance": event.instance}
        for name in ("pid", "stream", "fields"):
            extra[name] = getattr(event, name, None)
        logger.log(level, "%s", text, extra=extra)
