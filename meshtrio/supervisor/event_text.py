"""Describes lifecycle events, for the log and for clients that watch events."""

from __future__ import annotations

import re
from collections.abc import Sequence
from logging import ERROR, INFO, WARNING

from meshtrio.supervisor import events
from meshtrio.supervisor.log_line import ParsedLine, find_last_line, parse_line
from meshtrio.supervisor.policy.diagnosis import Condition
from meshtrio.util.log_level import LogLevel

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
    match event:
        case events.LineWritten():
            line = parse_event_line(event)
            return line.level, line.message
        case events.LogLevelSet(level=LogLevel() as level):
            return INFO, f"log level set to {level.value}"
        case events.LogLevelSet():
            return INFO, "log level reset to its program's default"
        case events.CheckFailed(pid=pid, reason=reason, condition=Condition() as condition):
            return INFO, f"pid {pid} failed a health check ({condition.value}): {reason}"
        case events.CheckFailed(pid=pid, reason=reason):
            return INFO, f"pid {pid} rejected a health check, so it is alive: {reason}"
        case events.GroupRestarting(group=group, plugins=plugins):
            return WARNING, f"restarting group {group} ({', '.join(plugins)}) because of it"
        case events.Exited() | events.GaveUp() | events.Stopped():
            return _describe_exit(event)
        case events.TaskFailed(exit=ended, attempts=attempts):
            after = f", after {attempts} attempts" if attempts > 1 else ""
            return ERROR, f"failed: {ended}{after}{format_last_stderr_line(ended.stderr_tail)}"
    severity, text = _TEXTS[type(event)]
    return severity, text.format(event)


_TEXTS: dict[type[events.LifecycleEvent], tuple[int, str]] = {
    events.Starting: (INFO, "started as pid {0.pid}"),
    events.NotStarted: (WARNING, "{0.exit}"),
    events.Ready: (INFO, "ready after {0.startup_time:.2f} s (pid {0.pid})"),
    events.Unready: (WARNING, "pid {0.pid} is not ready: {0.reason}"),
    events.Restarting: (INFO, "restarting in {0.delay:.2f} s"),
    events.Renewing: (INFO, "starting a replacement: {0.reason}"),
    events.Swept: (WARNING, "killed {0.count} processes that it had left behind"),
    events.LeftRunning: (
        ERROR,
        "pid {0.pid} ({0.name}) cannot be killed, left running: {0.reason}",
    ),
    events.Traced: (
        WARNING,
        "pid {0.pid} has ended, but {0.tracer} traces it and keeps it as a zombie",
    ),
    events.TaskCompleted: (INFO, "completed after {0.duration:.2f} s"),
    events.TaskRetrying: (INFO, "starting again in {0.delay:.2f} s"),
    events.TaskMissed: (WARNING, "missed {0.count} of its scheduled runs: {0.reason}"),
    events.Stopping: (INFO, "stopping pid {0.pid}"),
    events.LinesDropped: (
        WARNING,
        "{0.count} more lines on {0.stream} dropped: over the rate limit",
    ),
}
"""Levels and formats of events whose text depends on nothing but their fields."""


def _describe_exit(event: events.Exited | events.GaveUp | events.Stopped) -> tuple[int, str]:
    ended = event.exit
    match event:
        case events.Exited(pid=pid):
            level = INFO if ended.is_clean else WARNING
            return level, f"pid {pid} {ended}{format_last_stderr_line(ended.stderr_tail)}"
        case events.GaveUp(restarts=int() as restarts):
            return ERROR, f"{ended}; giving up: {restarts} restarts within restart_period"
        case events.GaveUp() if ended.is_unkillable:
            return ERROR, str(ended)
        case events.GaveUp():
            level = INFO if ended.is_clean else ERROR
            return level, f"{ended}; not restarted (restart policy)"
        case events.Stopped(pid=pid) if ended.is_unkillable:
            return ERROR, f"pid {pid} {ended}"
        case events.Stopped(pid=pid, was_killed=True):
            return WARNING, f"pid {pid} did not stop in time and {ended}"
        case events.Stopped(pid=pid):
            return INFO, f"stopped, pid {pid} {ended}"


def format_last_stderr_line(lines: Sequence[str]) -> str:
    """Format the last line of stderr with a text, which in most languages names the error."""
    last = find_last_line(lines)
    return f"; last stderr line: {last}" if last else ""
