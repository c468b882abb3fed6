"""What happens to plugins, as values: the log, and whoever else subscribes, is told with these."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import attrs

from meshtrio.supervisor.policy.diagnosis import Condition
from meshtrio.supervisor.policy.restart import Exit
from meshtrio.util.log_level import LogLevel


@attrs.frozen
class LifecycleEvent:
    """Something that happened to instance `instance` of plugin `plugin`."""

    plugin: str
    instance: int


@attrs.frozen
class Starting(LifecycleEvent):
    pid: int
    launch_id: str = ""
    """The word that its processes are known by."""


@attrs.frozen
class NotStarted(LifecycleEvent):
    """There is no process: no such program, no descriptors left, a wrong hash."""

    exit: Exit


@attrs.frozen
class Ready(LifecycleEvent):
    pid: int
    startup_time: float
    """Seconds since it was started."""


@attrs.frozen
class Unready(LifecycleEvent):
    """It says NOT_SERVING, and is out of the registry until it says SERVING again."""

    pid: int
    reason: str


@attrs.frozen
class CheckFailed(LifecycleEvent):
    """A health check was not answered; so many in a row, and it is killed."""

    pid: int
    reason: str
    condition: Condition | None = Condition.STUCK
    """What the process does instead; None if it is alive, and rejected the check."""


@attrs.frozen
class Exited(LifecycleEvent):
    """The process ended, though nobody asked it to, or the mesh ended it as a failure."""

    pid: int
    exit: Exit


@attrs.frozen
class Restarting(LifecycleEvent):
    delay: float
    """Seconds until it is started again."""


@attrs.frozen
class GaveUp(LifecycleEvent):
    """It ended and its restart policy says to leave it so."""

    exit: Exit
    restarts: int | None = None
    """How often it had been started again within its restart_period, where that was too often."""


@attrs.frozen
class Renewing(LifecycleEvent):
    """A successor is started beside it, and takes its place once it is ready."""

    reason: str


@attrs.frozen
class GroupRestarting(LifecycleEvent):
    """A member of `group` gave up, and these plugins are stopped and started afresh for it."""

    group: str
    plugins: tuple[str, ...]


@attrs.frozen
class Swept(LifecycleEvent):
    """`count` processes that had left its process group were killed after its end."""

    count: int


@attrs.frozen
class LeftRunning(LifecycleEvent):
    """A process of it cannot be killed, and runs on after its end."""

    pid: int
    name: str
    reason: str


@attrs.frozen
class Traced(LifecycleEvent):
    """Its process has ended, but stays a zombie as long as another process traces it."""

    pid: int
    tracer: str
    """The pid of that process and its name."""


@attrs.frozen
class Stopping(LifecycleEvent):
    pid: int


@attrs.frozen
class Stopped(LifecycleEvent):
    pid: int
    exit: Exit
    was_killed: bool
    """It had to be killed, since it did not end within its stop_timeout."""
    cut_calls: tuple[str, ...] = ()
    """Paths of the calls that it reported as cut when it drained."""
    cut_calls_known: bool = True
    """Whether these are all: see `operations.DrainResult`."""


@attrs.frozen
class LogLevelSet(LifecycleEvent):
    """It is to log from another level on; None: as its program says."""

    level: LogLevel | None


@attrs.frozen
class LineWritten(LifecycleEvent):
    """One line of output; `cut` bytes of it were too many and are gone."""

    pid: int
    stream: str
    line: str
    truncated_bytes: int
    fields: Mapping[str, Any] | None = None
    """What it says, if it is a JSON object."""
    log_level: LogLevel | None = None
    """What matters less is not for the log, where the plugin has a level of its own."""


@attrs.frozen
class LinesDropped(LifecycleEvent):
    """It wrote `count` lines more than its config lets through."""

    pid: int
    stream: str
    count: int


Subscriber = Callable[[LifecycleEvent], None]
