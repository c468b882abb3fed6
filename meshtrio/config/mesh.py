"""The config of a whole mesh."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import attrs

from meshtrio.config import port_ranges
from meshtrio.config.access import Access, GatewayConfig
from meshtrio.config.group import GroupConfig
from meshtrio.config.limits import MeshLimits
from meshtrio.config.log import LogConfig
from meshtrio.config.plugin import PluginConfig
from meshtrio.config.service import StaticServiceConfig
from meshtrio.config.telemetry import TelemetryConfig
from meshtrio.config.topology import Topology
from meshtrio.config.validators import at_least
from meshtrio.errors import ConfigError

_MIN_STARTING = 16


def _to_plugins(value: Iterable[PluginConfig]) -> tuple[PluginConfig, ...]:
    return tuple(value)


def _to_groups(value: Iterable[GroupConfig]) -> tuple[GroupConfig, ...]:
    return tuple(value)


def _default_max_starting() -> int:
    """Return a limit by CPUs: the more processes start at once, the longer each of them takes."""
    return max(_MIN_STARTING, 4 * (os.cpu_count() or 1))


def _to_services(value: Iterable[StaticServiceConfig]) -> tuple[StaticServiceConfig, ...]:
    return tuple(value)


@attrs.frozen
class ConfigSource:
    """The file that a config was read from, and the runtime dir that overrides its own."""

    path: Path
    runtime_dir: Path | None = None


@attrs.frozen
class MeshConfig:
    """The config of a whole mesh.

    Raises:
        ConfigError: With every error in the combination of plugins, groups and services.
    """

    plugins: tuple[PluginConfig, ...] = attrs.field(converter=_to_plugins, default=())
    groups: tuple[GroupConfig, ...] = attrs.field(converter=_to_groups, default=())
    services: tuple[StaticServiceConfig, ...] = attrs.field(converter=_to_services, default=())
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

    access: Access = attrs.field(factory=Access)
    """Access rules of the mesh socket and of the gateway's port."""

    gateway: GatewayConfig = attrs.field(factory=GatewayConfig)
    """TCP port on which the mesh serves what it serves on the mesh socket."""

    telemetry: TelemetryConfig = attrs.field(factory=TelemetryConfig)
    """Metrics, traces and binary logs."""

    limits: MeshLimits = attrs.field(factory=MeshLimits)
    """Limits on the use of the mesh's own services by one user."""

    log: LogConfig = attrs.field(factory=LogConfig)
    """The log of `meshtrio serve`."""

    source: ConfigSource | None = attrs.field(default=None, eq=False)
    """The file that the config was read from, which a reload reads again."""

    def __attrs_post_init__(self) -> None:
        problems = _find_duplicates("plugin", (plugin.name for plugin in self.plugins))
        problems += _find_duplicates("group", (group.name for group in self.groups))
        problems += self.topology().validate()
        problems += [f"mesh: {problem}" for problem in self.gateway.validate(self.access)]
        problems += [f"mesh: {problem}" for problem in self.telemetry.validate()]
        problems += [problem for plugin in self.plugins for problem in plugin.validate()]
        problems += self._validate_instances()
        problems += port_ranges.validate_ports(self.plugins, self.telemetry, self.gateway)
        configs = (table.name for table in self.services if table.config)
        problems += [
            f"service: {name!r} has more than one config"
            for name, count in Counter(configs).items()
            if count > 1
        ]
        if problems:
            raise ConfigError(problems)

    def _validate_instances(self) -> list[str]:
        together = sum(plugin.instances for plugin in self.plugins)
        if together <= self.max_instances:
            return []
        text = "mesh: the plugins have {} instances together, more than max_instances, {}; raise "
        return [f"{text.format(together, self.max_instances)}that in [mesh] if it is meant"]

    def topology(self) -> Topology:
        """Return the graph of plugins and groups."""
        return Topology(self.plugins, self.groups)


def _find_duplicates(kind: str, names: Iterable[str]) -> list[str]:
    times = Counter(names)
    return [f"{kind}: two {kind}s are named {name!r}" for name in times if times[name] > 1]
