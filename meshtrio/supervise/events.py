"""What happens to plugins, as values: the log, and whoever else subscribes, is told with these."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import attrs

from meshtrio.levels import LogLevel
from meshtrio.supervise.decisions.policy import Exit
from meshtrio.supervise.decisions.vitality import Condition


@attrs.frozen
class Event:
    """Something that happened to instance `instance` of plugin `plugin`."""

    plugin: str
    instance: int


@attrs.frozen
class Starting(Event):
    pid: int
    life: str = ""
    """The word that its processes are known by."""


@attrs.frozen
class NotStarted(Event):
    """There is no process: no such program, no descriptors left, a wrong hash."""

    ended: Exit


@attrs.frozen
class Ready(Event):
    pid: int
    after: float
    """Seconds since it was started."""


@attrs.frozen
class Unready(Event):
    """It says NOT_SERVING, and is out of the registry until it says SERVING again."""

    pid: int
    reason: str


@attrs.frozen
class CheckFailed(Event):
    """A health check was not answered; so many in a row, and it is killed."""

    pid: int
    reason: str
    condition: Condition | None = Condition.STUCK
    """What the process does instead; None if it is alive, and rejected the check."""


@attrs.frozen
class Exited(Event):
    """The process ended, though nobody asked it to, or the mesh ended it as a failure."""

    pid: int
    ended: Exit


@attrs.frozen
class Restarting(Event):
    delay: float
    """Seconds until it is started again."""


@attrs.frozen
class GaveUp(Event):
    """It ended and its restart policy says to leave it so."""

    ended: Exit
    restarts: int | None = None
    """How often it had been started again within its restart_period, where that was too often."""


@attrs.frozen
class Renewing(Event):
    """A successor is started beside it, and takes its place once it is ready."""

    reason: str


@attrs.frozen
class GroupRestarting(Event):
    """A member of `group` gave up, and these plugins are stopped and started afresh for it."""

    group: str
    plugins: tuple[str, ...]


@attrs.frozen
class Swept(Event):
    """`count` processes that had left its process group were killed after its end."""

    count: int


@attrs.frozen
class LeftRunning(Event):
    """A process of it cannot be killed, and runs on after its end."""

    pid: int
    name: str
    why: str


@attrs.frozen
class Traced(Event):
    """Its process has ended, but stays a zombie as long as another process traces it."""

    pid: int
    tracer: str
    """The pid of that process and its name."""


@attrs.frozen
class Stopping(Event):
    pid: int


@attrs.frozen
class Stopped(Event):
    pid: int
    ended: Exit
    forced: bool
    """It had to be killed, since it did not end within its stop_timeout."""
    cut_calls: tuple[str, ...] = ()
    """Paths of the calls that it reported as cut when it drained."""
    cut_calls_known: bool = True
    """Whether these are all: see `operations.Drained`."""


@attrs.frozen
class LogLevelSet(Event):
    """It is to log from another level on; None: as its program says."""

    level: LogLevel | None


@attrs.frozen
class LineWritten(Event):
    """One line of output; `cut` bytes of it were too many and are gone."""

    pid: int
    stream: str
    line: str
    cut: int
    fields: Mapping[str, Any] | None = None
    """What it says, if it is a JSON object."""
    log_level: LogLevel | None = None
    """What matters less is not for the log, where the plugin has a level of its own."""


@attrs.frozen
class LinesDropped(Event):
    """It wrote `count` lines more than its config allows, or than a busy mesh could handle."""

    pid: int
    stream: str
    count: int


Subscriber = Callable[[Event], None]
