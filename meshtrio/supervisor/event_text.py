"""Describes lifecycle events, for the log and for clients that watch events."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence

from meshtrio.supervisor import events
from meshtrio.supervisor.log_line import ParsedLine, find_last_line, parse_line

_WORD_BOUNDARY = re.compile("(?<!^)(?=[A-Z])")


def event_name(event: events.LifecycleEvent) -> str:
    """Return the name of an event's kind, such as `gave_up` or `lines_dropped`."""
    return _WORD_BOUNDARY.sub("_", type(event).__name__).lower()


def parse_event_line(event: events.LineWritten) -> ParsedLine:
    """Parse the line of an event."""
    cut = f" … ({event.truncated_bytes} more bytes on this line)" if event.truncated_bytes else ""
    return parse_line(event.line + cut, event.fields)


def describe_event(event: events.LifecycleEvent) -> tuple[int, str]:
    """Return an event's level, of the standard library's logging, and its text."""
    if isinstance(event, events.LineWritten):
        line = parse_event_line(event)
        return line.level, line.message
    if isinstance(event, events.LinesDropped):
        return logging.WARNING, f"{event.count} more lines on {event.stream} came too fast"
    if isinstance(event, events.LogLevelSet):
        if event.level is None:
            return logging.INFO, "log level reset to its program's default"
        return logging.INFO, f"log level set to {event.level.value}"
    return _describe_exit(event) or _describe_run(event)


def _describe_run(event: events.LifecycleEvent) -> tuple[int, str]:
    match event:
        case events.Starting(pid=pid):
            return logging.INFO, f"started as pid {pid}"
        case events.Ready(pid=pid, startup_time=startup_time):
            return logging.INFO, f"ready after {startup_time:.2f} s (pid {pid})"
        case events.Unready(pid=pid, reason=reason):
            return logging.WARNING, f"pid {pid} takes no calls: {reason}"
        case events.CheckFailed():
            return logging.INFO, _describe_check(event)
        case events.Restarting(delay=delay):
            return logging.INFO, f"restarting in {delay:.2f} s"
        case events.Renewing(reason=reason):
            return logging.INFO, f"starting a replacement: {reason}"
        case events.GroupRestarting(group=group, plugins=plugins):
            return logging.WARNING, f"restarting group {group} ({', '.join(plugins)}) because of it"
        case events.Swept(count=count):
            return logging.WARNING, f"killed {count} processes that it had left behind"
        case events.Stopping(pid=pid):
            return logging.INFO, f"stopping pid {pid}"
        case _:
            return logging.INFO, str(event)


def _describe_check(event: events.CheckFailed) -> str:
    if event.condition is None:
        return f"pid {event.pid} rejected a health check, so it is alive: {event.reason}"
    return f"pid {event.pid} failed a health check ({event.condition.value}): {event.reason}"


def _describe_exit(event: events.LifecycleEvent) -> tuple[int, str] | None:
    match event:
        case events.NotStarted(exit=ended):
            return logging.WARNING, str(ended)
        case events.Exited(pid=pid, exit=ended):
            level = logging.INFO if ended.is_clean else logging.WARNING
            return level, f"pid {pid} {ended}{format_last_stderr_line(ended.stderr_tail)}"
        case events.GaveUp(exit=ended, restarts=int() as restarts):
            text = f"{ended}; giving up: {restarts} restarts within restart_period"
            return logging.ERROR, text
        case events.GaveUp(exit=ended) if ended.is_unkillable:
            return logging.ERROR, str(ended)
        case events.GaveUp(exit=ended):
            level = logging.INFO if ended.is_clean else logging.ERROR
            return level, f"{ended}; not restarted (restart policy)"
        case events.Stopped(pid=pid, exit=ended) if ended.is_unkillable:
            return logging.ERROR, f"pid {pid} {ended}"
        case events.Stopped(pid=pid, exit=ended, was_killed=True):
            return logging.WARNING, f"pid {pid} did not stop in time and {ended}"
        case events.Stopped(pid=pid, exit=ended):
            return logging.INFO, f"stopped, pid {pid} {ended}"
    return _describe_unkillable(event)


def _describe_unkillable(event: events.LifecycleEvent) -> tuple[int, str] | None:
    match event:
        case events.LeftRunning(pid=pid, name=name, reason=reason):
            return logging.ERROR, f"pid {pid} ({name}) cannot be killed, left running: {reason}"
        case events.Traced(pid=pid, tracer=tracer):
            text = f"pid {pid} has ended, but {tracer} traces it and keeps it as a zombie"
            return logging.WARNING, text
    return None


def format_last_stderr_line(lines: Sequence[str]) -> str:
    """Format the last line of stderr with a text, which in most languages names the error."""
    last = find_last_line(lines)
    return f"; last stderr line: {last}" if last else ""
