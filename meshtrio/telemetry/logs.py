"""What happens to plugins and what they write, as records of the standard library's logging.

Lifecycle goes to the logger `meshtrio.mesh`, output to `meshtrio.plugin.<name>`; every record
carries `plugin`, `instance` and `pid` where there is one.
"""

from __future__ import annotations

import logging

from meshtrio.supervise import events

_mesh = logging.getLogger("meshtrio.mesh")


def log_event(event: events.Event) -> None:
    """A subscriber that logs every event."""
    level, text = _describe(event)
    logger = _mesh
    if isinstance(event, events.LineWritten):
        logger = logging.getLogger(f"meshtrio.plugin.{event.plugin}")
    if logger.isEnabledFor(level):
        extra = {"plugin": event.plugin, "instance": event.instance}
        extra["pid"] = getattr(event, "pid", None)
        logger.log(level, "%s", text, extra=extra)


def _describe(event: events.Event) -> tuple[int, str]:
    who = f"{event.plugin}/{event.instance}"
    match event:
        case events.LineWritten(line=line, cut=cut):
            return logging.INFO, f"{line} … ({cut} more bytes on this line)" if cut else line
        case events.Starting(pid=pid):
            return logging.INFO, f"{who}: started as pid {pid}"
        case events.Ready(pid=pid, after=after):
            return logging.INFO, f"{who}: ready after {after:.2f} s (pid {pid})"
        case events.Exited(pid=pid, ended=ended):
            level = logging.INFO if ended.clean else logging.WARNING
            return level, f"{who}: pid {pid} {ended}{_tail(ended.stderr_tail)}"
        case events.Restarting(delay=delay):
            return logging.INFO, f"{who}: starting it again in {delay:.2f} s"
        case events.GaveUp(ended=ended):
            level = logging.INFO if ended.clean else logging.ERROR
            return level, f"{who}: {ended}; its restart policy leaves it so"
        case events.Stopping(pid=pid):
            return logging.INFO, f"{who}: stopping pid {pid}"
        case events.Stopped(pid=pid, ended=ended, forced=True):
            return logging.WARNING, f"{who}: pid {pid} did not stop in time and {ended}"
        case events.Stopped(pid=pid, ended=ended):
            return logging.INFO, f"{who}: stopped, pid {pid} {ended}"
        case _:
            return logging.INFO, f"{who}: {event}"


def _tail(lines: tuple[str, ...]) -> str:
    """The last line of stderr, which in most languages names the error."""
    return f"; its last words: {lines[-1]}" if lines else ""
