"""Lifecycle events of plugins, and the subscribers that are called with them.

Subscribers are called from the tasks that own the plugins, so an exception of one of them is logged
and goes no further.
"""

from __future__ import annotations

import contextlib
import logging
import math
import sys
from collections.abc import Callable, Mapping
from typing import Any

import attrs
import trio

from meshtrio.config import StartMethod
from meshtrio.supervisor.policy.diagnosis import Condition
from meshtrio.supervisor.policy.restart import Exit, ExitCause
from meshtrio.util.concurrency import find_exit_exception
from meshtrio.util.log_level import LogLevel

_log = logging.getLogger("meshtrio.mesh")

_LOG_INTERVAL = 60.0
"""Seconds between two log records about one subscriber, which may raise for each line of output."""


@attrs.frozen
class LifecycleEvent:
    """An event of one instance of a plugin, or of a task."""

    plugin: str
    """The name of the plugin or task."""
    instance: int
    """The number of the instance, from 0; 0 for a task."""


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
    start: StartMethod = StartMethod.EXEC
    """How the process was started."""


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
    start: StartMethod = StartMethod.EXEC
    """How the process was started."""
    was_ready_before: bool = False
    """Whether the process is ready again, after `Unready`."""


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
class TaskCompleted(LifecycleEvent):
    """A run of a task has succeeded."""

    duration: float
    """Seconds from the start of its last process to its end."""


@attrs.frozen
class TaskRetrying(LifecycleEvent):
    """A process of a task has failed, and another is started."""

    delay: float
    """Seconds until it is started."""
    retries_left: int
    """Number of retries after this one."""


@attrs.frozen
class TaskFailed(LifecycleEvent):
    """A run of a task has failed, with all of its retries."""

    exit: Exit
    """How its last process ended."""
    attempts: int
    """Number of processes that were started."""


@attrs.frozen
class TaskMissed(LifecycleEvent):
    """Runs of a task's schedule were left out."""

    count: int
    """The number of runs."""
    reason: str
    """Why, as a phrase."""


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


@attrs.define(eq=False)
class Subscribers:
    """Calls each subscriber with each event, in the order that they were added."""

    _subscribers: list[Subscriber]
    _on_exit: Callable[[BaseException], None]
    """Called with a SystemExit or KeyboardInterrupt of one."""
    _last_logged: dict[Subscriber, tuple[float, int]] = attrs.field(factory=dict, init=False)
    """When the failures of a subscriber were last logged, and how many there were since."""

    def add(self, subscriber: Subscriber) -> None:
        """Add a subscriber, which is called after those before it."""
        self._subscribers.append(subscriber)

    def emit(self, event: LifecycleEvent) -> None:
        """Call all subscribers, in place."""
        ours = sys.exception()
        for subscriber in tuple(self._subscribers):
            try:
                subscriber(event)
            except BaseException as exc:
                _cut_context(exc, ours)
                self._handle_exception(subscriber, event, exc)

    def _handle_exception(
        self, subscriber: Subscriber, event: LifecycleEvent, exc: BaseException
    ) -> None:
        if find_exit_exception(exc) is not None:
            self._on_exit(exc)
            return
        now = trio.current_time()
        logged, more = self._last_logged.get(subscriber, (-math.inf, 0))
        if now - logged < _LOG_INTERVAL:
            self._last_logged[subscriber] = (logged, more + 1)
            return
        self._last_logged[subscriber] = (now, 0)
        # The subscriber may be the one that logs, and whose handler is broken.
        with contextlib.suppress(Exception):
            text = (
                "subscriber of lifecycle events raised for %s (and %d times since last logged): %r"
            )
            name = f"{type(event).__name__} of {event.plugin}/{event.instance}"
            _log.error(text, name, more, subscriber, exc_info=exc)


def _cut_context(exc: BaseException, ours: BaseException | None) -> None:
    """Take `ours`, which was being handled before, out of the context of `exc`.

    Otherwise the log would show the mesh's own exceptions, such as cancellation, as a part of it.
    """
    while exc.__context__ is not None and exc.__context__ is not ours:
        exc = exc.__context__
    exc.__context__ = None
