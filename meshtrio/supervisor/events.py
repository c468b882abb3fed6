"""Lifecycle events of plugins, which subscribers are called with."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import attrs

from meshtrio.supervisor.policy.diagnosis import Condition
from meshtrio.supervisor.policy.restart import Exit, ExitCause
from meshtrio.util.log_level import LogLevel


@attrs.frozen
class LifecycleEvent:
    """An event of one instance of a plugin."""

    plugin: str
    """The name of the plugin."""
    instance: int
    """The number of the instance, from 0."""


@attrs.frozen
class ProcessEvent(LifecycleEvent):
    """An event of one process of an instance."""

    pid: int
    """The process id."""


@attrs.frozen
class Starting(ProcessEvent):
    """A process was started."""

    launch_id: str = ""
    """The id that the processes of this launch inherit (`MESH_LAUNCH_ID`)."""


@attrs.frozen
class NotStarted(LifecycleEvent):
    """A process could not be started: no such program, no descriptors left, a wrong hash."""

    exit: Exit
    """Why."""


@attrs.frozen
class Ready(ProcessEvent):
    """The process became ready, for the first time or again."""

    startup_time: float
    """Seconds since the process was started."""


@attrs.frozen
class Unready(ProcessEvent):
    """The process reports NOT_SERVING; it is out of the registry until it reports SERVING again."""

    reason: str
    """Why it is not ready, as a phrase."""


@attrs.frozen
class CheckFailed(ProcessEvent):
    """A health check was not answered; after several in a row the process is killed."""

    reason: str
    """What the check found, as a phrase."""
    condition: Condition | None = Condition.STUCK
    """What the process does instead; None if it rejected the check, so that it is alive."""


@attrs.frozen
class Exited(ProcessEvent):
    """The process ended without a request to stop, or the mesh ended it as a failure."""

    exit: Exit
    """How it ended."""


@attrs.frozen
class Restarting(LifecycleEvent):
    """The restart policy starts the instance again."""

    delay: float
    """Seconds until it is started."""
    cause: ExitCause = ExitCause.EXITED
    """Why its last process ended."""


@attrs.frozen
class GaveUp(LifecycleEvent):
    """The restart policy leaves the instance down."""

    exit: Exit
    """How its last process ended."""
    restarts: int | None = None
    """The number of restarts within `restart_period`, if they were too many; otherwise None."""


@attrs.frozen
class Renewing(LifecycleEvent):
    """A replacement is started, and becomes the active process once it is ready."""

    reason: str
    """Why the process is replaced, as a phrase."""


@attrs.frozen
class GroupRestarting(LifecycleEvent):
    """A member of a group gave up, and plugins of the group are stopped and started again."""

    group: str
    """The name of the group."""
    plugins: tuple[str, ...]
    """The plugins that are restarted."""


@attrs.frozen
class Swept(LifecycleEvent):
    """Processes that had left the process group were killed after its end."""

    count: int
    """The number of these processes."""


@attrs.frozen
class LeftRunning(ProcessEvent):
    """A process of the instance cannot be killed, and still runs after the instance's end."""

    name: str
    """The name of the process."""
    reason: str
    """Why it cannot be killed."""


@attrs.frozen
class Traced(ProcessEvent):
    """The process has ended, but stays a zombie as long as another process traces it."""

    tracer: str
    """The pid and the name of the process that traces it."""


@attrs.frozen
class Stopping(ProcessEvent):
    """The process is being stopped on request."""


@attrs.frozen
class Stopped(ProcessEvent):
    """The process was stopped on request."""

    exit: Exit
    """How it ended."""
    was_killed: bool
    """Whether it was killed, since it did not end within its `stop_timeout`."""
    cut_calls: tuple[str, ...] = ()
    """Paths of the calls that it reported as cut when it drained."""
    cut_calls_known: bool = True
    """Whether `cut_calls` is complete: see `operations.DrainResult`."""


@attrs.frozen
class LogLevelSet(LifecycleEvent):
    """The log level of the instance was changed."""

    level: LogLevel | None
    """The new level; None for the default of its program."""


@attrs.frozen
class LineWritten(ProcessEvent):
    """The process wrote a line to stdout or stderr."""

    stream: str
    """`stdout` or `stderr`."""
    line: str
    """The line, without its end."""
    truncated_bytes: int
    """Bytes that the line was too long by, and that were dropped."""
    fields: Mapping[str, Any] | None = None
    """The fields of the line if it is a JSON object, otherwise None."""
    log_level: LogLevel | None = None
    """The level below which the line is not logged, if the plugin has one of its own."""


@attrs.frozen
class LinesDropped(ProcessEvent):
    """Lines were dropped: more than the config allows, or than a busy mesh could handle."""

    stream: str
    """`stdout` or `stderr`."""
    count: int
    """The number of lines."""


Subscriber = Callable[[LifecycleEvent], None]
"""Called in place with each event; may not block."""
