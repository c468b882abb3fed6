"""What a mesh tells of itself and its plugins, and where."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

from meshtrio import contract
from meshtrio.address import Address

if TYPE_CHECKING:
    from meshtrio.config.plugin import PluginConfig

THROUGH_THE_MESH, OFF = contract.METRICS_THROUGH_MESH, "off"


def where(value: str) -> Address:
    """The address that "host:port" stands for. Raises ValueError for anything else."""
    try:
        address = Address.parse(f"tcp:{value}")
    except ValueError:
        raise ValueError(f"must be host:port, as in 127.0.0.1:9464, not {value!r}") from None
    if not address.port:
        raise ValueError(f"must have a port other than 0, not {value!r}")
    return address


def _check_where(_: object, __: object, value: str | None) -> None:
    if value is not None:
        where(value)


def check_metrics(_: object, __: object, value: str) -> None:
    """Of a plugin: who exposes what it measures."""
    if value not in (THROUGH_THE_MESH, OFF):
        try:
            where(value)
        except ValueError:
            raise ValueError(f"must be mesh, off or host:port, not {value!r}") from None


@attrs.frozen
class TelemetryConfig:
    """What the mesh measures and where that is told. All of it is off by default."""

    metrics: str | None = attrs.field(default=None, validator=_check_where)
    """`host:port` on which metrics are served for Prometheus, at `/metrics`: those of the mesh, and
    those of its plugins, each as its `metrics` says. `serve --metrics` goes before it."""
    experimental: bool = False
    """Measure what gRPC has off by default, too: retries and hedges (gRFC A96), and ejections of
    outliers (A91)."""

    def environment(self, plugin: PluginConfig, number: int, place: int) -> dict[str, str]:
        """What an instance is told; `place` 1 is its successor's."""
        told = {}
        if plugin.metrics not in (THROUGH_THE_MESH, OFF):
            base = where(plugin.metrics)
            port = base.port + number + place * plugin.instances
            told[contract.PLUGIN_METRICS] = str(attrs.evolve(base, port=port)).removeprefix("tcp:")
        elif plugin.metrics == THROUGH_THE_MESH and self.metrics is not None:
            told[contract.PLUGIN_METRICS] = THROUGH_THE_MESH
        if told and self.experimental:
            told[contract.PLUGIN_METRICS_EXPERIMENTAL] = "1"
        return told
