"""The config of the output of a plugin or task."""

from __future__ import annotations

import attrs

from meshtrio.config.validators import at_least
from meshtrio.util.log_level import LogLevel


@attrs.frozen
class OutputConfig:
    """Handling of the lines that an instance writes to stdout and stderr.

    All output is read, so that a process does not block on a full pipe unless it floods: stdout and
    stderr are each read at about 6 MB per second, and at 1 MB while lines are dropped. Lines are
    truncated to 8 KiB. A line that is a JSON object is logged with its own level and message, and
    with its other fields as the record's `fields`.
    """

    lines_per_second: float = attrs.field(default=1000.0, validator=at_least(0))
    """Maximum lines per second of a process on each of stdout and stderr; more are dropped, and
    their number is logged."""
    burst: int = attrs.field(default=5000, validator=at_least(1))
    """Number of lines that may exceed the rate at once, also on each of stdout and stderr."""
    kept: int = attrs.field(default=200, validator=at_least(0))
    """Number of last lines of each instance that are kept for `meshtrio logs`, those below
    `log_level` included."""
    log_level: LogLevel | None = None
    """Minimum level of the lines that go to the mesh's log; plain text has the level `info`.
    Plugins made with meshtrio apply it themselves too. By default they log at the level that their
    program sets, else at `info`, and the mesh's own level applies. `meshtrio log-level` changes it
    while the mesh runs."""
