"""TCP ports of the parts of a mesh: no conflicts, and none above 65535. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import combinations

import attrs

from meshtrio.config.access import GatewayConfig
from meshtrio.config.plugin import PluginConfig
from meshtrio.config.telemetry import (
    METRICS_FROM_MESH,
    METRICS_OFF,
    TelemetryConfig,
    parse_host_port,
)
from meshtrio.util.address import Address

_MAX_PORT = 65535
_WILDCARD_HOSTS = frozenset({"0.0.0.0", "::"})  # noqa: S104 - nothing is bound here


@attrs.frozen
class PortRange:
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

    def overlaps(self, other: PortRange) -> bool:
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


def validate_ports(
    plugins: Iterable[PluginConfig], telemetry: TelemetryConfig, gateway: GatewayConfig
) -> list[str]:
    """Return every error, as "key: reason"."""
    ranges = []
    if telemetry.metrics is not None:
        ranges.append(PortRange("mesh: telemetry: metrics", parse_host_port(telemetry.metrics)))
    if gateway.listen is not None:
        ranges.append(PortRange("mesh: gateway: listen", Address.parse(gateway.listen)))
    for plugin in plugins:
        # Each instance has one port, and its successor another.
        key, count = f"plugin {plugin.name!r}", 2 * plugin.instances
        if plugin.listen is not None:
            ranges.append(PortRange(f"{key}: listen", Address.parse(plugin.listen), count))
        if plugin.metrics not in (METRICS_FROM_MESH, METRICS_OFF):
            ranges.append(PortRange(f"{key}: metrics", parse_host_port(plugin.metrics), count))
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
