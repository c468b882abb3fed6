"""The TCP ports that the parts of a mesh take: each is taken once, and there is one. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import combinations

import attrs

from meshtrio.address import Address
from meshtrio.config.access import GatewayConfig
from meshtrio.config.plugin import PluginConfig
from meshtrio.config.telemetry import OFF, THROUGH_THE_MESH, TelemetryConfig, where

_HIGHEST = 65535
_EVERYWHERE = frozenset({"0.0.0.0", "::"})  # noqa: S104 - nothing is bound here


@attrs.frozen
class Ports:
    """From the port of an address on, so many; `key` is where the config says so."""

    key: str
    address: Address
    count: int = 1

    @property
    def last(self) -> int:
        return self.address.port + self.count - 1

    def meets(self, other: Ports) -> bool:
        hosts = {self.address.host, other.address.host}
        return (
            (len(hosts) == 1 or not hosts.isdisjoint(_EVERYWHERE))
            and self.address.port <= other.last
            and other.address.port <= self.last
        )

    def __str__(self) -> str:
        first = self.address.port
        return f"port {first}" if self.count == 1 else f"ports {first} to {self.last}"


def problems(
    plugins: Iterable[PluginConfig], telemetry: TelemetryConfig, gateway: GatewayConfig
) -> list[str]:
    """Every mistake, as "key: reason"."""
    taken = [*_of_the_mesh(telemetry, gateway), *(p for each in plugins for p in _of(each))]
    found = [
        f"{ports.key}: the instances and their successors take {ports}; the highest is {_HIGHEST}"
        for ports in taken
        if ports.last > _HIGHEST
    ]
    for one, other in combinations(taken, 2):
        if one.meets(other):
            found.append(f"{other.key}: takes {other}, and {one.key} takes {one}")
    return found


def _of_the_mesh(telemetry: TelemetryConfig, gateway: GatewayConfig) -> Iterator[Ports]:
    if telemetry.metrics is not None:
        yield Ports("mesh: telemetry: metrics", where(telemetry.metrics))
    if gateway.listen is not None:
        yield Ports("mesh: gateway: listen", Address.parse(gateway.listen))


def _of(plugin: PluginConfig) -> Iterator[Ports]:
    """Each instance has one, and each successor another."""
    count = 2 * plugin.instances
    if plugin.listen is not None:
        yield Ports(f"plugin {plugin.name!r}: listen", Address.parse(plugin.listen), count)
    if plugin.metrics not in (THROUGH_THE_MESH, OFF):
        yield Ports(f"plugin {plugin.name!r}: metrics", where(plugin.metrics), count)
