"""The config of one task: a program that runs to its end."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import attrs

from meshtrio.config.containment import Containment
from meshtrio.config.dependency import Dependency, to_dependencies
from meshtrio.config.output import OutputConfig
from meshtrio.config.program import (
    COMMAND_METADATA,
    ProgramConfig,
    check_command,
    check_env,
    check_name,
)
from meshtrio.config.schedule import Schedule, find_zone
from meshtrio.config.validators import at_least, is_positive, parsed_by, to_strings
from meshtrio.util.backoff import Backoff


@attrs.frozen
class TaskConfig(ProgramConfig):
    """A task: a program that runs to its end, once when the mesh starts or by a schedule.

    It succeeds with exit status 0. `meshtrio run` runs it at any time.
    """

    name: str = attrs.field(validator=check_name)
    """Name, with the syntax of plugin names; no plugin or group may have it too."""
    command: tuple[str, ...] = attrs.field(
        converter=to_strings, validator=check_command, metadata=COMMAND_METADATA
    )
    """Program and arguments, as of a plugin."""
    depends_on: tuple[Dependency, ...] = attrs.field(default=(), converter=to_dependencies)
    """What it waits for, as of a plugin."""
    schedule: str | None = None
    """When it runs, in the syntax of cron(8): `"*/5 * * * *"` has the fields minute, hour, day of
    month, month and day of week; with six fields the first is the second. By default it runs once,
    when the mesh starts. A run that is due while the one before is still running is skipped, and
    reported as missed, as are those that were due while the machine was asleep."""
    timezone: str | None = attrs.field(default=None, validator=parsed_by(find_zone))
    """Time zone of the schedule, such as `Europe/Berlin`; by default that of the machine."""
    timeout: float | None = attrs.field(default=None, validator=is_positive)
    """Seconds after which its process is stopped, which is a failure. By default there is no
    limit."""
    retries: int = attrs.field(default=0, validator=at_least(0))
    """Number of times that it is started again after a failure. Runs by `meshtrio run` are not
    repeated."""
    backoff: Backoff = attrs.field(factory=Backoff)
    """Delay between a failure and the next start."""
    env: Mapping[str, str] = attrs.field(factory=dict, validator=parsed_by(check_env), repr=False)
    """Environment variables of its process, as of a plugin."""
    inherit_env: tuple[str, ...] | None = attrs.field(
        default=None, converter=attrs.converters.optional(to_strings)
    )
    """Names of the mesh's environment variables that it inherits, as of a plugin."""
    cwd: Path | None = attrs.field(default=None, converter=attrs.converters.optional(Path))
    """Working directory; by default the folder of the config file, or the embedding program's
    own."""
    containment: Containment = attrs.field(factory=Containment)
    """Resource limits and credentials of its processes."""
    output: OutputConfig = attrs.field(factory=OutputConfig)
    """Handling of the lines that it writes."""
    stop_timeout: float = attrs.field(default=5.0, validator=at_least(0))
    """Seconds from SIGTERM to SIGKILL, which is sent to the rest of the process group."""

    def validate(self) -> list[str]:
        """Return errors in the combination of fields, as "task 'x': key: reason"."""
        found = self.check_script()
        if self.backoff.initial > self.backoff.maximum:
            found.append("backoff: initial is more than maximum")
        try:
            self.times()
        except ValueError as exc:
            found.append(f"schedule: {exc}")
        if self.timezone is not None and self.schedule is None:
            found.append("timezone: is only for a task with a schedule")
        return [f"task {self.name!r}: {problem}" for problem in found]

    def times(self) -> Schedule | None:
        """Return its schedule, None if it has none. Raises ValueError if it is malformed."""
        return None if self.schedule is None else Schedule(self.schedule, self.timezone)
