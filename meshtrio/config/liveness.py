"""The config of the health checks of a plugin that is ready."""

from __future__ import annotations

import attrs

from meshtrio.config.ready import parse_liveness_check
from meshtrio.config.validators import at_least, is_positive, parsed_by


@attrs.frozen
class Liveness:
    """Health checks of a plugin that is ready.

    When `failure_threshold` consecutive checks are not answered, the process is sent SIGQUIT, on
    which meshtrio's plugins, Go and Java write their stacks to stderr, then killed and restarted.
    NOT_SERVING is not a failure: it removes the plugin from the registry until it reports SERVING.
    Neither is a check that the server rejects because it has too many connections or calls. Checks
    that the mesh could not make, for lack of CPU time or file descriptors, do not count.
    """

    check: str | None = attrs.field(default=None, validator=parsed_by(parse_liveness_check))
    """What is checked, as for `ready`: `"grpc"`, `"tcp:host:port"`, `"unix:/path"` or
    `"http://host:port/path"`; or `"notify"`: that it sends WATCHDOG=1 (sd_notify(3)) more often
    than once in `interval`, which WATCHDOG_USEC tells it. By default the same as for `ready`, if it
    is one of these; otherwise there are no checks. With `ready = "notify"` alone, a process that
    has never sent WATCHDOG=1 is not checked."""
    interval: float = attrs.field(default=10.0, validator=at_least(0))
    """Seconds from one check to the next; 0 disables checks."""
    timeout: float = attrs.field(default=5.0, validator=is_positive)
    """Seconds to answer a check."""
    failure_threshold: int = attrs.field(default=3, validator=at_least(1))
    """Number of consecutive checks that are not answered, after which the process is killed."""
    overload_threshold: int = attrs.field(default=12, validator=at_least(1))
    """Replaces `failure_threshold`, if it is larger, while the processes are overloaded rather than
    stuck: they use or wait for a CPU for at least a tenth of the time, wait for disk or memory, or
    the backlog of their socket is full. A process in an endless loop is thus killed after this
    number of checks."""
