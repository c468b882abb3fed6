"""The config of a whole mesh, its limits and its log; its TCP ports."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable
from enum import Enum
from itertools import combinations
from pathlib import Path

import attrs

from meshtrio.config.access import Access, GatewayConfig
from meshtrio.config.dashboard import DashboardConfig
from meshtrio.config.discovery import DiscoveryConfig
from meshtrio.config.plugin import PluginConfig
from meshtrio.config.static_service import DnsConfig, StaticServiceConfig
from meshtrio.config.task import TaskConfig
from meshtrio.config.telemetry import (
    METRICS_FROM_MESH,
    METRICS_OFF,
    TelemetryConfig,
    parse_host_port,
)
from meshtrio.config.topology import GroupConfig, Topology
from meshtrio.config.validators import at_least
from meshtrio.util.address import Address
from meshtrio.util.errors import ConfigError
from meshtrio.util.log_level import LogLevel

_MIN_STARTING = 16
_MAX_PORT = 65535
_WILDCARD_HOSTS = frozenset({"0.0.0.0", "::"})  # noqa: S104 - nothing is bound here
_DUPLICATE_HINTS = {
    "plugin": "make it one with more instances, or rename it",
    "group": "make it one with the members of both, or rename it",
    "task": "rename one of them",
}


def _to_plugins(value: Iterable[PluginConfig]) -> tuple[PluginConfig, ...]:
    return tuple(value)


def _to_groups(value: Iterable[GroupConfig]) -> tuple[GroupConfig, ...]:
    return tuple(value)


def _to_tasks(value: Iterable[TaskConfig]) -> tuple[TaskConfig, ...]:
    return tuple(value)


def _to_services(value: Iterable[StaticServiceConfig]) -> tuple[StaticServiceConfig, ...]:
    return tuple(value)


def _default_max_starting() -> int:
    """Return a limit by CPUs: the more processes start at once, the longer each of them takes."""
    return max(_MIN_STARTING, 4 * (os.cpu_count() or 1))


@attrs.frozen
class MeshLimits:
    """Limits on the use of the mesh's own services by one user.

    A user is a user of this machine; on the TCP port a client certificate, or a host without one.
    The limits apply to the mesh's own user and root too. A call beyond a limit fails with
    RESOURCE_EXHAUSTED and the name of the limit.
    """

    max_calls_per_user: int = attrs.field(default=4096, validator=at_least(1))
    """Maximum number of concurrent calls of one user to one service of the mesh itself, such as
    `meshtrio.v1.Registry`. Most of them are watches: a client program has one for each service that
    it calls."""
    max_registrations_per_user: int = attrs.field(default=1024, validator=at_least(1))
    """Maximum number of endpoints that one user has registered, of 256 bytes each on average.
    Registrations are also limited in rate: to twice this number at once, and 10 per second after
    that."""
    max_endpoints_per_service: int = attrs.field(default=1024, validator=at_least(1))
    """Maximum number of endpoints of one service, in addition to the instances of a plugin."""


class LogFormat(Enum):
    """The format of log records."""

    CONSOLE = "console"
    JSON = "json"


@attrs.frozen
class LogConfig:
    """The log that `meshtrio serve` writes to stderr.

    A program that embeds a mesh configures logging itself. Cannot be changed by a reload.
    """

    format: LogFormat = LogFormat.CONSOLE
    """`console` for text, `json` for one JSON object per line; `--log-format` overrides it."""
    level: LogLevel = LogLevel.INFO
    """Minimum level of records; `--log-level` overrides it. The output of a plugin with a
    `log_level` follows that instead."""


@attrs.frozen
class ConfigSource:
    """The file that a config was read from, and what overrides it whenever it is read."""

    path: Path
    """The file."""
    runtime_dir: Path | None = None
    """The runtime dir in force instead of the file's; None if that of the file is."""
    metrics: str | None = None
    """`metrics` of `[mesh.telemetry]` in force; None if that of the file is."""
    dashboard: str | None = None
    """`listen` of `[mesh.dashboard]` in force; None if that of the file is."""

    def override(self, config: MeshConfig) -> MeshConfig:
        """Return the config of a file as it is in force, apart from the runtime dir.

        Raises:
            ValueError: An address is malformed.
            ConfigError: The overridden config is wrong.
        """
        telemetry, dashboard = config.telemetry, config.dashboard
        if self.metrics is not None:
            telemetry = attrs.evolve(telemetry, metrics=self.metrics)
        if self.dashboard is not None:
            dashboard = attrs.evolve(dashboard, listen=self.dashboard)
        return attrs.evolve(config, telemetry=telemetry, dashboard=dashboard, source=self)


@attrs.frozen
class MeshConfig:
    """The config of a whole mesh.

    Raises:
        ConfigError: With every error in the combination of plugins, groups, tasks and services.
    """

    plugins: tuple[PluginConfig, ...] = attrs.field(converter=_to_plugins, default=())
    """The plugins, each a `[[plugin]]` table of the file."""
    groups: tuple[GroupConfig, ...] = attrs.field(converter=_to_groups, default=())
    """The groups, each a `[[group]]` table of the file."""
    services: tuple[StaticServiceConfig, ...] = attrs.field(converter=_to_services, default=())
    """The services, each a `[[service]]` table of the file."""
    tasks: tuple[TaskConfig, ...] = attrs.field(converter=_to_tasks, default=(), kw_only=True)
    """The tasks, each a `[[task]]` table of the file."""
    runtime_dir: Path | None = attrs.field(default=None, converter=attrs.converters.optional(Path))
    """Folder of `mesh.sock` and the plugins' sockets, created with mode 0700 and used by one mesh
    at a time. An existing folder must be empty, or have been a mesh's; with other content it is
    refused and left unchanged. By default `$XDG_RUNTIME_DIR/meshtrio`, else `/tmp/meshtrio-<uid>`;
    `--runtime-dir` overrides it."""

    max_starting: int = attrs.field(factory=_default_max_starting, validator=at_least(1))
    """Maximum number of instances that are starting at the same time; others wait until those are
    ready or have failed. By default 4 per CPU, and at least 16: if two hundred plugins started at
    once on two CPUs, none would be ready within its `ready_timeout`."""

    max_instances: int = attrs.field(default=1024, validator=at_least(1))
    """Maximum number of instances of all plugins together, by config and by `meshtrio scale`."""

    cgroup: Path | None = attrs.field(default=None, converter=attrs.converters.optional(Path))
    """Folder of cgroup v2 that the mesh may write to, such as one that systemd delegates with
    `Delegate=yes`; it may not contain processes directly. Each process of a plugin gets a cgroup of
    its own there, which its children cannot leave, and in which the kernel enforces
    `containment.memory` if the memory controller is available."""

    reap_orphans: bool = False
    """Whether the mesh's process takes and reaps orphans among its descendants where it is not PID
    1: processes whose parents have exited, though they may not descend from a plugin. It always
    does so as PID 1, and `meshtrio serve` for what plugins leave. In a program that embeds the
    mesh, orphans that lead a session are not reaped, since they may be the program's own children.
    Cannot be changed by a reload."""

    access: Access = attrs.field(factory=Access)
    """Access rules of the mesh socket and of the gateway's port."""

    gateway: GatewayConfig = attrs.field(factory=GatewayConfig)
    """TCP port on which the mesh serves what it serves on the mesh socket."""

    dashboard: DashboardConfig = attrs.field(factory=DashboardConfig)
    """The web dashboard."""

    discovery: DiscoveryConfig = attrs.field(factory=DiscoveryConfig)
    """Registration in etcd, and services of other hosts."""

    telemetry: TelemetryConfig = attrs.field(factory=TelemetryConfig)
    """Metrics, traces and binary logs."""

    dns: DnsConfig = attrs.field(factory=DnsConfig)
    """How endpoints of services are looked up in DNS."""

    limits: MeshLimits = attrs.field(factory=MeshLimits)
    """Limits on the use of the mesh's own services by one user."""

    log: LogConfig = attrs.field(factory=LogConfig)
    """The log of `meshtrio serve`."""

    source: ConfigSource | None = attrs.field(default=None, eq=False)
    """The file that the config was read from, which a reload reads again."""

    def __attrs_post_init__(self) -> None:
        problems = find_duplicates("plugin", (plugin.name for plugin in self.plugins))
        problems += find_duplicates("group", (group.name for group in self.groups))
        problems += find_duplicates("task", (task.name for task in self.tasks))
        problems += self.topology().validate()
        problems += [f"mesh: {problem}" for problem in self.gateway.validate(self.access)]
        problems += [f"mesh: {problem}" for problem in self.dashboard.validate()]
        problems += [f"mesh: {problem}" for problem in self.discovery.validate(self.gateway)]
        problems += [f"mesh: {problem}" for problem in self.telemetry.validate()]
        problems += [problem for plugin in self.plugins for problem in plugin.validate()]
        problems += [problem for task in self.tasks for problem in task.validate()]
        together = sum(plugin.instances for plugin in self.plugins)
        if together > self.max_instances:
            text = f"mesh: the plugins have {together} instances together, more than "
            text += f"max_instances, {self.max_instances}; raise that in [mesh] if it is meant"
            problems.append(text)
        problems += _validate_ports(self)
        configs = Counter(table.name for table in self.services if table.config)
        twice = (name for name, count in configs.items() if count > 1)
        problems += [f"service: {name!r} has more than one config" for name in twice]
        if problems:
            raise ConfigError(problems)

    def topology(self) -> Topology:
        """Return the graph of plugins, groups and tasks."""
        return Topology(self.plugins, self.groups, self.tasks)


def find_duplicates(kind: str, names: Iterable[str]) -> list[str]:
    """Return an error for each name that two tables of a kind have; services may share one."""
    times, hint = Counter(names), _DUPLICATE_HINTS.get(kind)
    return [f"{kind}: two {kind}s are named {n!r}; {hint}" for n in times if times[n] > 1 and hint]


# -- ports -----------------------------------------------------------------------------------


@attrs.frozen
class _PortRange:
    """A range of ports that starts at that of an address."""

    key: str
    """The key of the config, which errors name."""
    address: Address
    count: int = 1
    """Number of ports."""

    @property
    def last(self) -> int:
        """The highest port of the range."""
        return self.address.port + self.count - 1

    def overlaps(self, other: _PortRange) -> bool:
        """Return whether both ranges have a port in common on hosts that may be the same."""
        hosts = {self.address.host, other.address.host}
        return (
            (len(hosts) == 1 or not hosts.isdisjoint(_WILDCARD_HOSTS))
            and self.address.port <= other.last
            and other.address.port <= self.last
        )

    def __str__(self) -> str:
        first = self.address.port
        return f"port {first}" if self.count == 1 else f"ports {first} to {self.last}"


def _validate_ports(config: MeshConfig) -> list[str]:
    """Return conflicts between TCP ports, and ports above 65535, as "key: reason"."""
    ranges = []
    if (metrics := config.telemetry.metrics) is not None:
        ranges.append(_PortRange("mesh: telemetry: metrics", parse_host_port(metrics)))
    if (listen := config.gateway.listen) is not None:
        ranges.append(_PortRange("mesh: gateway: listen", Address.parse(listen)))
    if (address := config.dashboard.address) is not None:
        ranges.append(_PortRange("mesh: dashboard: listen", address))
    for plugin in config.plugins:
        # Each instance has one port, and its successor another, unless the mesh holds its socket.
        key, count = f"plugin {plugin.name!r}", 2 * plugin.instances
        if plugin.listen is not None:
            own = plugin.instances if plugin.listen_fds else count
            ranges.append(_PortRange(f"{key}: listen", Address.parse(plugin.listen), own))
        if plugin.metrics not in (METRICS_FROM_MESH, METRICS_OFF):
            ranges.append(_PortRange(f"{key}: metrics", parse_host_port(plugin.metrics), count))
    found = [
        f"{ports.key}: the instances and their successors take {ports}; the highest is {_MAX_PORT}"
        for ports in ranges
        if ports.last > _MAX_PORT
    ]
    return found + [
        f"{other.key}: takes {other}, and {one.key} takes {one}"
        for one, other in combinations(ranges, 2)
        if one.overlaps(other)
    ]
