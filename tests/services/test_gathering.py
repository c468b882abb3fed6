"""Whom a mesh asks for metrics, and what becomes of the answers."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

from meshtrio.client.endpoint import Endpoint
from meshtrio.config import MeshConfig, PluginConfig
from meshtrio.registry.memory import MemoryRegistry
from meshtrio.services.gathering import Gatherer
from meshtrio.services.standard import standard_server
from meshtrio.telemetry.families import Family, counter
from meshtrio.telemetry.metrics import Metrics
from tests.client.test_channel import serving


def process(said: int) -> Any:
    """The server of a plugin's process, whose only own metric has this value."""
    return standard_server(metrics=Metrics(sources=[lambda: [counter("c", "", "", {(): said})]]))[0]


def value(families: list[Family], **labels: str) -> Any:
    (family,) = (each for each in families if each.name == "c")
    (found,) = (p.value for p in family.points if set(labels.items()) <= set(p.labels))
    return found


async def test_while_two_processes_change_places_the_new_one_is_asked(short_dir: Path) -> None:
    """Whichever answers first: a counter that went back and forth would be a restart each time."""
    registry = MemoryRegistry()
    tree: Any = SimpleNamespace(config=MeshConfig([PluginConfig("p", ["x"])]))
    registry.declare("plugin.p")
    async with serving(short_dir / "old", process(1000)), serving(short_dir / "new", process(1)):
        for number, name in enumerate(("old", "new")):
            where = f"unix:{short_dir / name}"
            registry.register("plugin.p", Endpoint(name, where, instance=0, pid=number + 1))
        gatherer = Gatherer(tree, registry, [])
        for _ in range(20):
            assert value(await gatherer.gather(), plugin="p", plugin_instance="0") == 1
