"""One plugin, as its author or operator describes it. Times are seconds."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from enum import Enum
from pathlib import Path
from typing import Any

import attrs

from meshtrio import contract
from meshtrio.config.containment import Containment
from meshtrio.config.telemetry import METRICS_FROM_MESH, check_metrics
from meshtrio.util.address import Address
from meshtrio.util.backoff import Backoff
from meshtrio.util.log_level import LogLevel
from meshtrio.util.tls_config import ClientTlsConfig, ServerTlsConfig

PYTHON_PLACEHOLDER = "{python}"
"""As a word of a command: the interpreter that the mesh itself runs on."""

_PLUGIN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")


class RestartPolicy(Enum):
    """Whether a plugin whose process ended by itself is started again."""

    ALWAYS = "always"
    ON_FAILURE = "on-failure"
    NEVER = "never"


class EscalationScope(Enum):
    """How far a failure goes that restarts did not help against."""

    PLUGIN = "plugin"
    """The plugin stays down; nothing else is touched."""
    GROUP = "group"
    """Its group acts by its strategy, and fails in turn when that happens too often."""
    MESH = "mesh"
    """The mesh stops with an error."""


def check_name(_: object, __: object, value: str) -> None:
    if not _PLUGIN_NAME.fullmatch(value) or len(value) > 64:
        raise ValueError(
            f"{value!r} is not a name: it has up to 64 letters, digits, '-' and '_', and does not "
            "begin with a sign"
        )


def _check_command(_: object, __: object, value: tuple[str, ...]) -> None:
    if not value or not value[0]:
        raise ValueError('must name a program, as in ["python", "plugin.py"]')


def _check_env(_: object, __: object, value: Mapping[str, str]) -> None:
    for key in value:
        if not key or "=" in key or "\0" in key + value[key]:
            # What follows the sign may be a secret.
            name = key.partition("=")[0]
            raise ValueError(f"{name!r} cannot be the name of an environment variable")
        if key in contract.MESH_VARIABLES:
            raise ValueError(f"{key} is set by the mesh")


def at_least(minimum: float, *, inclusive: bool = True) -> Any:
    def check(_: object, __: object, value: float) -> None:
        if value != value or value < minimum or (value == minimum and not inclusive):
            bound = f"at least {minimum}" if inclusive else f"more than {minimum}"
            raise ValueError(f"must be {bound}, not {value}")

    return check


def _check_fraction(_: object, __: object, value: float) -> None:
    if not 0 <= value <= 1:
        raise ValueError(f"must be between 0 and 1, not {value}")


def _check_message_length(_: object, __: object, value: int | None) -> None:
    if value is not None and value < -1:
        raise ValueError(f"must be a number of bytes, or -1 for no limit, not {value}")


def _check_listen(_: object, __: object, value: str | None) -> None:
    if value is not None and not Address.parse(value).port:
        raise ValueError(f"must be tcp://host:port, not {value!r}")


@attrs.frozen
class Liveness:
    """Health checks of a plugin that is ready.

    When `threshold` checks in a row are not answered, the process is sent SIGQUIT, which
    meshtrio's plugins, Go and Java answer with their stacks on stderr, then killed, and started
    again. NOT_SERVING is no failure: it takes the plugin out of the registry until it says SERVING.
    Neither is a server that rejects the check because it has too many connections or calls: it is
    alive, and stays as it is. Checks that the mesh could not make, for lack of CPU time or file
    descriptors, do not count.
    """

    interval: float = attrs.field(default=10.0, validator=at_least(0))
    """From one check to the next; 0 for none."""
    timeout: float = attrs.field(default=5.0, validator=at_least(0, inclusive=False))
    """For the answer to one."""
    failure_threshold: int = attrs.field(default=3, validator=at_least(1))
    """So many that are not answered in a row."""
    overload_threshold: int = attrs.field(default=12, validator=at_least(1))
    """The same as `threshold`, while its processes are overloaded rather than stuck: they use or
    wait for a CPU for a tenth of the time or more, wait for the disk or memory, or the backlog of
    their socket is full. So a process in an endless loop is killed after this number of checks. At
    least `threshold` is used."""


@attrs.frozen
class OutputConfig:
    """What becomes of the lines an instance writes.

    All of them are read, so that it does not block on a full pipe unless it floods: stdout and
    stderr are each read at about 6 MB a second, and at 1 MB while lines are dropped. What is over
    8 KiB of a line is cut. A line that is a JSON object is logged with its own level and message,
    and its fields as the record's `fields`.
    """

    lines_per_second: float = attrs.field(default=1000.0, validator=at_least(0))
    """What is written faster is dropped, and its number told."""
    burst: int = attrs.field(default=5000, validator=at_least(1))
    """Lines that may come at once."""
    kept: int = attrs.field(default=200, validator=at_least(0))
    """The last lines of each instance, for who asks later, those below `make_log_level`, too."""
    log_level: LogLevel | None = None
    """What matters less is not passed on to the log of the mesh; plain text counts as `info`.
    Plugins made with meshtrio log from there on themselves. By default they log as their programs
    say, else from `info` on, and the mesh passes on what is for its own level. `meshtrio log-level`
    changes it while the mesh runs."""


@attrs.frozen
class PluginConfig:
    """One plugin: a program, and how its processes are kept alive."""

    name: str = attrs.field(validator=check_name)
    """Letters, digits, `-` and `_`; the plugin is called as the service `plugin.<name>`."""
    command: tuple[str, ...] = attrs.field(
        converter=tuple, validator=_check_command, metadata={"hint": "it is run without a shell"}
    )
    """List of program and arguments, run without a shell; the word `{python}` stands for the
    interpreter that the mesh runs on."""
    instances: int = attrs.field(default=1, validator=at_least(1))
    """How many processes serve it."""
    max_instances: int = attrs.field(default=256, validator=at_least(1))
    """The most that `instances` and `meshtrio scale` may say, so that a slip of the finger does not
    start processes until the machine has no memory left."""
    listen: str | None = attrs.field(default=None, validator=_check_listen)
    """`tcp://host:port` to serve on instead of a Unix socket, told to the plugin as PLUGIN_LISTEN.
    Instance n has the port plus n, and a successor of it that plus `instances`."""
    services: tuple[str, ...] = attrs.field(default=(), converter=tuple)
    """The gRPC services it serves, for the gateway to know before it is ready, and where it has no
    reflection to learn them by."""
    serve_tls: ServerTlsConfig | None = None
    """What it serves with there, told as PLUGIN_TLS_CERTIFICATE, PLUGIN_TLS_KEY and
    PLUGIN_TLS_CLIENT_CA."""
    tls: ClientTlsConfig | None = None
    """What the mesh and its clients call it with."""
    verify_server: bool = True
    """Whether what answers at its address has to be one of its processes, and run as the mesh's
    user or root; what is not gets no calls. To be false for a command that has its server started
    by another program, as `docker run` has. The user of `containment` is verified in any case."""
    env: Mapping[str, str] = attrs.field(factory=dict, validator=_check_env, repr=False)
    """Environment variables of its processes, in addition to those that they inherit from the mesh.
    `PYTHONUNBUFFERED` is 1 unless it is set here or inherited, so that what a Python program prints
    is in the log at once."""
    cwd: Path | None = None
    """By default the folder of the config file, or that of the embedding program."""
    restart: RestartPolicy = RestartPolicy.ALWAYS
    """Whether it is started again when its process ends by itself: always, after another exit
    status than 0, or never."""
    always_restart_on: tuple[int, ...] = attrs.field(default=(), converter=tuple)
    """Exit statuses after which it is started again whatever `restart` says."""
    never_restart_on: tuple[int, ...] = attrs.field(default=(), converter=tuple)
    """Exit statuses after which it is not: a mistake that another start cannot mend."""
    backoff: Backoff = attrs.field(factory=Backoff)
    """Between a death and the next start."""
    min_uptime: float = attrs.field(default=10.0, validator=at_least(0, inclusive=False))
    """Seconds that a process has to live once it is ready to start the curve of `backoff` again.
    One that never gets ready never does."""
    max_restarts: int | None = attrs.field(
        default=None, validator=attrs.validators.optional(at_least(0))
    )
    """So many of one instance within `restart_period`; at the next failure the plugin gives up."""
    restart_period: float = attrs.field(default=60.0, validator=at_least(0, inclusive=False))
    """For `max_restarts`."""
    escalate: EscalationScope = EscalationScope.PLUGIN
    """Who deals with a plugin that gave up: nobody, so that it stays down and nothing else is
    touched; its group; or the mesh, which stops everything and fails."""
    depends_on: tuple[str, ...] = attrs.field(default=(), converter=tuple)
    """Plugins and groups of which an instance each has to be ready before this one is started;
    stopping goes in reverse."""
    ready_timeout: float = attrs.field(default=10.0, validator=at_least(0, inclusive=False))
    """From the start of a process to its first SERVING; then it is killed, which is a failure. Time
    in which it waited for a CPU does not count, up to three times this."""
    liveness: Liveness = attrs.field(factory=Liveness)
    """Health checks of a plugin that is ready."""
    inherit_env: tuple[str, ...] | None = attrs.field(
        default=None, converter=attrs.converters.optional(tuple)
    )
    """Names of the mesh's own variables that it inherits, in addition to `env`. By default it
    inherits all of them, without those by which systemd talks to the mesh (`NOTIFY_SOCKET`,
    `WATCHDOG_*`, `LISTEN_*`)."""
    containment: Containment = attrs.field(factory=Containment)
    """What its processes may use, and as whom they run."""
    max_age: float | None = attrs.field(
        default=None, validator=attrs.validators.optional(at_least(0, inclusive=False))
    )
    """Seconds after which an instance is renewed: a successor is ready before it is stopped."""
    max_age_variance: float = attrs.field(default=0.1, validator=_check_fraction)
    """A fraction either way: what was started together is not renewed together."""
    renew_above: int | None = attrs.field(
        default=None, validator=attrs.validators.optional(at_least(1))
    )
    """Bytes of resident memory, of its whole process group, above which an instance is renewed."""
    output: OutputConfig = attrs.field(factory=OutputConfig)
    """What becomes of the lines it writes."""
    max_receive_message_length: int | None = attrs.field(
        default=None, validator=_check_message_length
    )
    """Bytes of the longest message that it accepts, after decompression; -1 is no limit. By default
    what its program says, else 4 MiB; this overrides the program. For plugins made with meshtrio,
    which read it as PLUGIN_MAX_RECEIVE_MESSAGE_LENGTH. What its callers accept is set by
    `maxResponseMessageBytes` of the service config, or by each caller."""
    max_send_message_length: int | None = attrs.field(default=None, validator=_check_message_length)
    """Bytes of the longest message that it sends, before compression; -1 is no limit, which is the
    default. For plugins made with meshtrio, which read it as PLUGIN_MAX_SEND_MESSAGE_LENGTH."""
    metrics: str = attrs.field(default=METRICS_FROM_MESH, validator=check_metrics)
    """Where what it measures of its calls is exposed: `mesh`, with the mesh's own, where those are;
    `host:port`, by the plugin itself, its instance 1 at the next port and so on; or `off`. For
    plugins made with meshtrio."""
    stop_timeout: float = attrs.field(default=5.0, validator=at_least(0))
    """From SIGTERM to SIGKILL, of whatever is left of its process group. A process that handles
    SIGQUIT is sent that half a second before it is killed, for its stacks, unless this is 0."""

    @property
    def service(self) -> str:
        return f"plugin.{self.name}"

    @property
    def monitors_memory(self) -> bool:
        return self.containment.memory is not None or self.renew_above is not None

    def validate(self) -> list[str]:
        """What does not go together."""
        where = f"plugin {self.name!r}: "
        both = sorted(set(self.always_restart_on) & set(self.never_restart_on))
        found = [
            f"{where}{key}: {status} is no exit status: those are 0 to 255"
            for key in ("always_restart_on", "never_restart_on")
            for status in getattr(self, key)
            if not 0 <= status <= 255
        ]
        found += [f"{where}never_restart_on: {s} is in always_restart_on, too" for s in both]
        if self.instances > self.max_instances:
            found.append(
                f"{where}instances: {self.instances} is more than its max_instances, "
                f"{self.max_instances}; raise that in its [[plugin]] table if it is meant"
            )
        if self.backoff.initial > self.backoff.maximum:
            found.append(f"{where}backoff: initial is more than maximum")
        return found

    def process_spec(self) -> tuple[object, ...]:
        """What its processes are made of: where this differs, they have to be started anew."""
        return (
            self.command,
            dict(self.env),
            self.cwd,
            self.listen,
            self.serve_tls,
            self.tls,
            self.stop_timeout,
            self.inherit_env,
            self.metrics,
            self.max_receive_message_length,
            self.max_send_message_length,
            attrs.evolve(self.containment, memory=None),
        )

    def instance_address(self, instance: int, slot: int) -> str | None:
        """Where an instance serves, None for its Unix socket; `place` 1 is its successor's."""
        if self.listen is None:
            return None
        base = Address.parse(self.listen)
        return str(attrs.evolve(base, port=base.port + instance + slot * self.instances))

    def argv(self) -> list[str]:
        """The command as it is executed."""
        program, *arguments = (
            sys.executable if w == PYTHON_PLACEHOLDER else w for w in self.command
        )
        if self.cwd is not None and "/" in program:
            program = str(self.cwd / program)
        return [program, *arguments]
