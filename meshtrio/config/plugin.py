"""The config of one plugin."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import attrs

from meshtrio.config.containment import Containment
from meshtrio.config.dependency import Dependency, to_dependencies
from meshtrio.config.lifecycle import (
    EscalationScope,
    ReplacementOrder,
    RestartPolicy,
    StartMethod,
)
from meshtrio.config.liveness import Liveness
from meshtrio.config.output import OutputConfig
from meshtrio.config.program import (
    COMMAND_METADATA,
    ProgramConfig,
    check_command,
    check_env,
    check_name,
)
from meshtrio.config.ready import (
    Check,
    FdCheck,
    GrpcCheck,
    LivenessCheck,
    NotifyCheck,
    ServerCheck,
    StartedCheck,
    check_instances,
    parse_check,
    parse_liveness_check,
)
from meshtrio.config.telemetry import METRICS_FROM_MESH, check_metrics
from meshtrio.config.validators import (
    at_least,
    check_max_busy_poll,
    is_fraction,
    is_positive,
    parsed_by,
    require,
    to_ints,
    to_strings,
)
from meshtrio.util.address import Address
from meshtrio.util.backoff import Backoff
from meshtrio.util.tls_config import ClientTlsConfig, ServerTlsConfig

_LISTEN_FD = 3
"""The descriptor of a listening socket that a process inherits, as in sd_listen_fds(3)."""
_has_port = require(
    lambda address: Address.parse(address).port, "must be tcp://host:port, not {!r}"
)
_is_message_length = require(
    lambda length: length >= -1, "must be a number of bytes, or -1 for no limit, not {}"
)


def _check_preload(names: tuple[str, ...]) -> None:
    for name in names:
        if not all(part.isidentifier() for part in name.split(".")):
            raise ValueError(f"{name!r} is not the name of a module, as in numpy.linalg")


@attrs.frozen
class PluginConfig(ProgramConfig):
    """A plugin: a program, and how its processes are run."""

    name: str = attrs.field(validator=check_name)
    """Name, of letters, digits, `-` and `_`; clients call the service `plugin.<name>`."""
    command: tuple[str, ...] = attrs.field(
        converter=to_strings, validator=check_command, metadata=COMMAND_METADATA
    )
    """Program and arguments, run without a shell. The word `{python}` stands for the interpreter
    that the mesh runs on."""
    start: StartMethod = StartMethod.EXEC
    """How its processes are started: by executing the command, or by `fork` of a template process
    that has imported `trio`, `meshtrio.plugin` and `preload`, which takes milliseconds. The latter
    is for `{python} script.py`, `-m module` and `-c code`, see
    [fast starts](../how-to/fast-starts.md). `"on-demand"` and `"fork-on-demand"` start them in the
    same two ways, but only at the first connection to their socket or the first call through the
    mesh or its gateway; they require `listen_fds`, see
    [sockets the mesh holds](../how-to/held-sockets.md#starting-on-demand)."""
    idle_timeout: float | None = attrs.field(default=None, validator=is_positive)
    """Seconds without a call after which the process of a plugin that is started on demand is
    stopped, until the next demand. Programs not made with meshtrio are stopped after this time
    without a connection to their socket. By default they are not stopped."""
    preload: tuple[str, ...] = attrs.field(
        default=(), converter=to_strings, validator=parsed_by(_check_preload)
    )
    """Modules that the template imports for a `start` by fork, in addition to those of meshtrio.
    They must not start threads or processes, nor leave files or sockets open; otherwise the
    processes are started by executing the command, and the log says why."""
    instances: int = attrs.field(default=1, validator=at_least(1))
    """Number of processes that serve it."""
    max_instances: int = attrs.field(default=256, validator=at_least(1))
    """Maximum of `instances` and of `meshtrio scale`, so that a typing error does not start
    processes until the machine runs out of memory."""
    listen: str | None = attrs.field(default=None, validator=_has_port)
    """`tcp://host:port` to serve on instead of a Unix socket, passed as PLUGIN_LISTEN. Instance n
    has the port plus n, and its successor that plus `instances`; with `listen_fds`, the same."""
    listen_fds: bool = False
    """Whether the mesh binds the socket of each instance, holds it while the instance is to run,
    and passes it to each of its processes as descriptor 3 by LISTEN_FDS and LISTEN_PID, as systemd
    does. Connections wait while there is no process, instead of being refused; see
    [sockets the mesh holds](../how-to/held-sockets.md)."""
    service: bool | None = None
    """Whether it serves gRPC, so that clients can call `plugin.<name>`. By default true, unless
    `ready` is `"started"` or has an address. A plugin without a service is supervised like any
    other, and has no entry in the registry, no route in the gateway and no metrics of calls."""
    services: tuple[str, ...] = attrs.field(default=(), converter=to_strings)
    """Full names of the gRPC services it serves, for the gateway to route calls before the plugin
    is ready, or if it does not serve reflection."""
    serve_tls: ServerTlsConfig | None = None
    """TLS settings of its server on `listen`, passed as PLUGIN_TLS_CERTIFICATE, PLUGIN_TLS_KEY and
    PLUGIN_TLS_CLIENT_CA."""
    tls: ClientTlsConfig | None = None
    """TLS settings of the mesh and its clients when they call it."""
    verify_server: bool = True
    """Whether the server at its address must be one of its processes, and run as the mesh's user or
    root, to receive calls; and whether the server at an address in `ready` or `liveness.check` must
    be one of its processes. Set to false for a command whose server is started by another program,
    such as `docker run`. The user of `containment` is verified in any case."""
    env: Mapping[str, str] = attrs.field(factory=dict, validator=parsed_by(check_env), repr=False)
    """Environment variables of its processes, in addition to those inherited from the mesh.
    `PYTHONUNBUFFERED` is 1 unless it is set here or inherited, so that the output of a Python
    program is logged at once."""
    cwd: Path | None = attrs.field(default=None, converter=attrs.converters.optional(Path))
    """Working directory; by default the folder of the config file, or the embedding program's
    own."""
    restart: RestartPolicy = RestartPolicy.ALWAYS
    """Whether it is restarted when its process exits by itself: always, after a nonzero exit status
    or a signal, or never."""
    always_restart_on: tuple[int, ...] = attrs.field(default=(), converter=to_ints)
    """Exit statuses after which it is restarted whatever `restart` is."""
    never_restart_on: tuple[int, ...] = attrs.field(default=(), converter=to_ints)
    """Exit statuses after which it is not restarted: errors that a restart cannot fix."""
    backoff: Backoff = attrs.field(factory=Backoff)
    """Delay between an exit and the next start."""
    min_uptime: float = attrs.field(default=10.0, validator=is_positive)
    """Seconds that a process must run after it became ready for `backoff` to start from its initial
    delay again."""
    max_restarts: int | None = attrs.field(default=None, validator=at_least(0))
    """Maximum number of restarts of one instance within `restart_period`; at the next failure the
    the mesh gives up. By default there is no limit."""
    restart_period: float = attrs.field(default=60.0, validator=is_positive)
    """Seconds within which `max_restarts` are counted."""
    escalate: EscalationScope = EscalationScope.PLUGIN
    """Where it is escalated that the plugin gave up: nowhere, so that it stays down; to its group;
    or to the mesh, which stops everything and fails."""
    depends_on: tuple[Dependency, ...] = attrs.field(default=(), converter=to_dependencies)
    """What this one waits for before it is started: a list of plugins and groups, of which an
    instance of each plugin has to be ready, or a table such as `{ migrate = "completed", db =
    "ready" }`. Completed are a task that has succeeded, and a plugin whose processes have exited
    successfully, with `restart` as `never` or `on-failure`. Plugins are stopped in reverse order.
    """
    ready: str = attrs.field(default="grpc", validator=parsed_by(parse_check))
    """When a process is ready: `"grpc"`, when its gRPC server reports SERVING; `"notify"`, when it
    has sent READY=1 to the socket in NOTIFY_SOCKET (sd_notify(3)); `"fd:N"`, when it has written a
    newline to descriptor N (s6's notification-fd); `"tcp:host:port"` or `"unix:/path"`, when its
    server accepts connections there; `"http://host:port/path"`, when its server answers a GET
    request with a status of 200 to 399; `"started"`, as soon as it was started. Instance n has the
    port plus n, and `{instance}` in a path stands for its number. The gRPC server of a plugin with
    a service has to accept connections in any case. See
    [other programs](../how-to/other-programs.md)."""
    ready_timeout: float = attrs.field(default=10.0, validator=is_positive)
    """Seconds from the start of a process until it has to be ready, or else is killed, which is a
    failure. Time spent waiting for a CPU does not count, up to three times this value."""
    liveness: Liveness = attrs.field(factory=Liveness)
    """Health checks of a plugin that is ready."""
    inherit_env: tuple[str, ...] | None = attrs.field(
        default=None, converter=attrs.converters.optional(to_strings)
    )
    """Names of the mesh's environment variables that it inherits, in addition to `env`. By default
    all of them, except for those of systemd's protocols (`NOTIFY_SOCKET`, `WATCHDOG_*`,
    `LISTEN_*`), which `meshtrio serve` keeps to itself in any case."""
    containment: Containment = attrs.field(factory=Containment)
    """Resource limits and credentials of its processes."""
    replace: ReplacementOrder | None = None
    """Whether its process is replaced by starting the successor first, or by stopping it first, as
    is necessary if two processes cannot have the same port or files. By default `stop-first` if
    `ready` has an address, otherwise `start-first`."""
    max_age: float | None = attrs.field(default=None, validator=is_positive)
    """Seconds after which an instance is renewed: a successor is started, and when that is ready
    the instance is stopped."""
    max_age_variance: float = attrs.field(default=0.1, validator=is_fraction)
    """Fraction by which `max_age` varies either way, so that instances that were started together
    are not renewed together."""
    renew_above: int | None = attrs.field(default=None, validator=at_least(1))
    """Resident memory of the process group, in bytes, above which an instance is renewed."""
    output: OutputConfig = attrs.field(factory=OutputConfig)
    """Handling of the lines that it writes."""
    max_receive_message_length: int | None = attrs.field(default=None, validator=_is_message_length)
    """Maximum length of a message that it accepts, in bytes after decompression; -1 is no limit.
    Overrides the program's own setting; by default that, else 4 MiB. For plugins made with
    meshtrio, which read PLUGIN_MAX_RECEIVE_MESSAGE_LENGTH. What callers accept is set by
    `maxResponseMessageBytes` of the service config, or by each caller."""
    max_send_message_length: int | None = attrs.field(default=None, validator=_is_message_length)
    """Maximum length of a message that it sends, in bytes before compression; -1, the default, is
    no limit. For plugins made with meshtrio, which read PLUGIN_MAX_SEND_MESSAGE_LENGTH."""
    max_busy_poll: float | None = attrs.field(default=None, validator=check_max_busy_poll)
    """Maximum seconds for which its connections poll their sockets before the process sleeps, from
    0 for never to 0.01. Overrides the program's own setting; by default that, else 0.0005. For
    plugins made with meshtrio, which read MESHTRIO_BUSY_POLL."""
    max_connection_age: float | None = attrs.field(default=None, validator=is_positive)
    """Seconds after which it drains a connection, so that clients that do not watch its service
    connect again, and find new instances behind `listen`; it varies by up to a tenth either way.
    Calls in progress may finish, and none is lost. `inf` is no maximum. Overrides the program's own
    setting; by default that, else no maximum. For plugins made with meshtrio, which read
    PLUGIN_MAX_CONNECTION_AGE."""
    max_connection_age_grace: float | None = attrs.field(default=None, validator=at_least(0))
    """Seconds from its maximum age on after which calls still in progress on a connection end with
    UNAVAILABLE; `inf` is no limit. Overrides the program's own setting; by default that, else no
    limit. For plugins made with meshtrio, which read PLUGIN_MAX_CONNECTION_AGE_GRACE."""
    metrics: str = attrs.field(default=METRICS_FROM_MESH, validator=parsed_by(check_metrics))
    """Where the metrics of its calls are exposed: `mesh`, with the mesh's own; `host:port`, by the
    plugin itself: instance n has the port plus n, its replacement that plus `instances`, and the
    next one the first port again; or `off`. For plugins made with meshtrio."""
    stop_timeout: float = attrs.field(default=5.0, validator=at_least(0))
    """Seconds from SIGTERM to SIGKILL, which is sent to the rest of the process group. A process
    that handles SIGQUIT is sent that half a second before, for its stacks, unless this is 0."""

    @property
    def service_name(self) -> str:
        """The name that clients connect to, if it has a service."""
        return f"plugin.{self.name}"

    @property
    def ready_check(self) -> Check:
        """What is checked until a process is ready."""
        return parse_check(self.ready)

    @property
    def has_service(self) -> bool:
        """Whether it serves gRPC, for clients to call."""
        if self.service is not None:
            return self.service
        return isinstance(self.ready_check, (GrpcCheck, NotifyCheck, FdCheck))

    @property
    def monitors_memory(self) -> bool:
        """Whether the memory of its processes is checked."""
        return self.containment.memory is not None or self.renew_above is not None

    @property
    def liveness_check(self) -> LivenessCheck | None:
        """What is checked of a process that is ready; None if nothing is."""
        if self.liveness.check is not None:
            return parse_liveness_check(self.liveness.check)
        check = self.ready_check
        return None if isinstance(check, (StartedCheck, FdCheck)) else check

    @property
    def replacement_order(self) -> ReplacementOrder:
        """How a process is replaced."""
        if self.replace is not None:
            return self.replace
        has_address = isinstance(self.ready_check, ServerCheck)
        return ReplacementOrder.STOP_FIRST if has_address else ReplacementOrder.START_FIRST

    @property
    def uses_notifications(self) -> bool:
        """Whether its processes report by sd_notify(3)."""
        return isinstance(self.ready_check, NotifyCheck) or self.watchdog_interval is not None

    @property
    def watchdog_interval(self) -> float | None:
        """Seconds in which a process has to send WATCHDOG=1; None if it need not."""
        is_checked = isinstance(self.liveness_check, NotifyCheck)
        return self.liveness.interval if is_checked and self.liveness.interval else None

    def process_spec(self) -> tuple[object, ...]:
        """Return what processes are started with; a change of it requires a restart."""
        return (
            *(self.command, dict(self.env), self.cwd, self.inherit_env, self.stop_timeout),
            *(self.start.forks, self.preload, self.ready, self.has_service, self.idle_timeout),
            *(self.uses_notifications, self.watchdog_interval),
            *(self.listen, self.listen_fds, self.serve_tls, self.tls, self.metrics),
            *(self.max_receive_message_length, self.max_send_message_length, self.max_busy_poll),
            *(self.max_connection_age, self.max_connection_age_grace),
            attrs.evolve(self.containment, memory=None),
        )

    def instance_address(self, instance: int, slot: int) -> str | None:
        """Return the TCP address of an instance, of its successor for `slot` 1, or None.

        With `listen_fds` both have the same.
        """
        if self.listen is None:
            return None
        slot = 0 if self.listen_fds else slot
        return str(self.shift_port(Address.parse(self.listen), instance, slot))

    def shift_port(self, base: Address, instance: int, slot: int) -> Address:
        """Return the address of an instance, or of its successor, from that of instance 0."""
        return base.replace(port=base.port + instance + slot * self.instances)

    # -- combinations of settings ------------------------------------------------------------

    def validate(self) -> list[str]:
        """Return errors in the combination of fields, as "plugin 'x': key: reason"."""
        where = f"plugin {self.name!r}: "
        duplicates = sorted(set(self.always_restart_on) & set(self.never_restart_on))
        found = [
            f"{where}{key}: {status} is not an exit status, which is 0 to 255"
            for key in ("always_restart_on", "never_restart_on")
            for status in getattr(self, key)
            if not 0 <= status <= 255
        ]
        found += [f"{where}never_restart_on: {s} is also in always_restart_on" for s in duplicates]
        if self.instances > self.max_instances:
            found.append(
                f"{where}instances: {self.instances} is more than its max_instances, "
                f"{self.max_instances}; raise that in its [[plugin]] table if it is meant"
            )
        if self.backoff.initial > self.backoff.maximum:
            found.append(f"{where}backoff: initial is more than maximum")
        found += [f"{where}{problem}" for problem in self._check_service()]
        if self.listen_fds and not self.verify_server:
            found.append(
                f"{where}listen_fds: requires verify_server; only a process that the mesh starts "
                "can inherit its socket"
            )
        found += [f"{where}{problem}" for problem in self._check_readiness()]
        return [*found, *(f"{where}{problem}" for problem in self._check_start())]

    def _check_readiness(self) -> list[str]:
        found = []
        names = ("NOTIFY_SOCKET", "WATCHDOG_USEC") if self.uses_notifications else ()
        found += [f"env: {name} is set by the mesh here" for name in names if name in self.env]
        if isinstance(self.ready_check, FdCheck) and self.start.forks:
            found.append(f'ready: {self.ready} requires start = "exec" or "on-demand"')
        if self.ready_check == FdCheck(_LISTEN_FD) and self.listen_fds:
            found.append("ready: descriptor 3 is the socket of `listen_fds`; choose another number")
        if problem := check_instances(self.ready_check, self.instances):
            found.append(f"ready: {problem}")
        liveness = self.liveness_check
        if self.liveness.check is not None and liveness is not None:
            if problem := check_instances(liveness, self.instances):
                found.append(f"liveness.check: {problem}")
            if isinstance(liveness, GrpcCheck) and not self.has_service:
                found.append("liveness.check: grpc is for a plugin with a service")
        return found

    def _check_service(self) -> list[str]:
        if self.has_service:
            return []
        found = []
        if isinstance(self.ready_check, GrpcCheck):
            text = '`ready` is "grpc", which checks its gRPC server'
            found.append(f"service: is false, but {text}; see its other values")
        if self.services:
            found.append("services: is for a plugin with a service, which this one does not have")
        return found

    def _check_start(self) -> list[str]:
        if problems := self.check_script():
            return problems
        problems = self._check_demand()
        if not self.start.forks:
            text = 'preload: is only for start = "fork", by which a template imports it'
            return [*problems, text] if self.preload else problems
        try:
            self.python_command()
        except ValueError as exc:
            return [*problems, f"command: {exc}"]
        return problems

    def _check_demand(self) -> list[str]:
        if not self.start.is_on_demand:
            text = 'idle_timeout: is only for start = "on-demand", by which it is started again'
            return [text] if self.idle_timeout is not None else []
        if not self.listen_fds:
            text = f'start: "{self.start.value}" requires `listen_fds = true`'
            return [f"{text}, so that the mesh holds the socket while there is no process"]
        return []
