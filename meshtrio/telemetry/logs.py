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
    if isinstance(event, events.LineWritten):
        cut = f" … ({event.cut} more bytes on this line)" if event.cut else ""
        return logging.INFO, event.line + cut
    level, text = _describe_end(event) or _describe_life(event)
    return level, f"{event.plugin}/{event.instance}: {text}"


def _describe_life(event: events.Event) -> tuple[int, str]:
    match event:
        case events.Starting(pid=pid):
            return logging.INFO, f"started as pid {pid}"
        case events.Ready(pid=pid, after=after):
            return logging.INFO, f"ready after {after:.2f} s (pid {pid})"
        case events.Unready(pid=pid, reason=reason):
            return logging.WARNING, f"pid {pid} takes no calls: {reason}"
        case events.Restarting(delay=delay):
            return logging.INFO, f"starting it again in {delay:.2f} s"
        case events.Renewing(reason=reason):
            return logging.INFO, f"starting a successor: {reason}"
        case events.GroupRestarting(group=group, plugins=plugins):
            return logging.WARNING, f"group {group} restarts {', '.join(plugins)} for it"
        case events.Stopping(pid=pid):
            return logging.INFO, f"stopping pid {pid}"
        case _:
            return logging.INFO, str(event)


def _describe_end(event: events.Event) -> tuple[int, str] | None:
    match event:
        case events.Exited(pid=pid, ended=ended):
            level = logging.INFO if ended.clean else logging.WARNING
            return level, f"pid {pid} {ended}{_tail(ended.stderr_tail)}"
        case events.GaveUp(ended=ended, restarts=int() as restarts):
            return logging.ERROR, f"{ended}; gives up after {restarts} restarts within its period"
        case events.GaveUp(ended=ended):
            level = logging.INFO if ended.clean else logging.ERROR
            return level, f"{ended}; its restart policy leaves it so"
        case events.Stopped(pid=pid, ended=ended, forced=True):
            return logging.WARNING, f"pid {pid} did not stop in time and {ended}"
        case events.Stopped(pid=pid, ended=ended):
            return logging.INFO, f"stopped, pid {pid} {ended}"
    return None


def _tail(lines: tuple[str, ...]) -> str:
    """The last line of stderr, which in most languages names the error."""
    return f"; its last words: {lines[-1]}" if lines else ""
