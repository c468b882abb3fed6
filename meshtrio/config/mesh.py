"""A whole mesh: its plugins, their groups, and where it keeps its sockets."""

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
from meshtrio.config.plugin import PluginConfig, at_least
from meshtrio.config.service import StaticServiceConfig
from meshtrio.config.telemetry import TelemetryConfig
from meshtrio.config.topology import Topology
from meshtrio.errors import ConfigError

_MIN_STARTING = 16


def _to_plugins(value: Iterable[PluginConfig]) -> tuple[PluginConfig, ...]:
    return tuple(value)


def _to_groups(value: Iterable[GroupConfig]) -> tuple[GroupConfig, ...]:
    return tuple(value)


def _default_max_starting() -> int:
    """Starting is work for the CPU: the more do it at once, the longer each of them takes, and the
    nearer they all come to their ready_timeout."""
    return max(_MIN_STARTING, 4 * (os.cpu_count() or 1))


def _to_services(value: Iterable[StaticServiceConfig]) -> tuple[StaticServiceConfig, ...]:
    return tuple(value)


@attrs.frozen
class ConfigSource:
    """Where a config was read, and the runtime dir that goes before the one it says."""

    path: Path
    runtime_dir: Path | None = None


@attrs.frozen
class MeshConfig:
    """A whole mesh. Raises ConfigError, with every mistake, for plugins that cannot be together."""

    plugins: tuple[PluginConfig, ...] = attrs.field(converter=_to_plugins, default=())
    groups: tuple[GroupConfig, ...] = attrs.field(converter=_to_groups, default=())
    services: tuple[StaticServiceConfig, ...] = attrs.field(converter=_to_services, default=())
    runtime_dir: Path | None = attrs.field(default=None, converter=attrs.converters.optional(Path))
    """Folder of `mesh.sock` and the plugins' sockets; made with mode 0700 and used by one mesh at
    a time. One that is there has to be empty, or a mesh's from before; a folder with other content
    is refused, and left as it is. By default `$XDG_RUNTIME_DIR/meshtrio`, else
    `/tmp/meshtrio-<uid>`; `--runtime-dir` overrides it."""

    max_starting: int = attrs.field(factory=_default_max_starting, validator=at_least(1))
    """Instances that may be starting at once; others wait until those are ready, or have failed.
    By default 4 for each CPU, and at least 16: when two hundred plugins share two CPUs, each gets
    to its `ready_timeout` before it is ready."""

    max_instances: int = attrs.field(default=1024, validator=at_least(1))
    """The most instances that all plugins may have together, by the config and by `meshtrio
    scale`."""

    cgroup: Path | None = attrs.field(default=None, converter=attrs.converters.optional(Path))
    """A folder of cgroup v2 that the mesh may write to, as systemd gives with `Delegate=yes`; no
    process may be in it directly. Each process of a plugin gets a cgroup of its own there, which
    nothing it starts can leave, and the kernel holds it to `containment.memory` where it has the
    memory controller."""

    access: Access = attrs.field(factory=Access)
    """Who may use the mesh socket, and the gateway's port."""

    gateway: GatewayConfig = attrs.field(factory=GatewayConfig)
    """The TCP port on which the same is served as on the mesh socket."""

    telemetry: TelemetryConfig = attrs.field(factory=TelemetryConfig)
    """What is measured, and where it is told."""

    limits: MeshLimits = attrs.field(factory=MeshLimits)
    """What one user may take of the mesh's own services."""

    log: LogConfig = attrs.field(factory=LogConfig)
    """How `meshtrio serve` writes its log."""

    source: ConfigSource | None = attrs.field(default=None, eq=False)
    """The file it was read from, which a reload reads again."""

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
        return Topology(self.plugins, self.groups)


def _find_duplicates(kind: str, names: Iterable[str]) -> list[str]:
    times = Counter(names)
    return [f"{kind}: two {kind}s are named {name!r}" for name in times if times[name] > 1]
