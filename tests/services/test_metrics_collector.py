"""Whom a mesh asks for metrics, and what becomes of the answers."""

from __future__ import annotations

from contextlib import AsyncExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import trio

from meshtrio.config import MeshConfig, PluginConfig
from meshtrio.discovery.endpoint import Endpoint
from meshtrio.discovery.registry import Registry
from meshtrio.services.metrics_collector import MetricsCollector
from meshtrio.telemetry.metric_families import Histogram, MetricFamily, MetricKind, MetricPoint
from meshtrio.telemetry.metrics import Metrics
from tests.support.servers import serve_on_socket, standard_server


def process(said: int) -> Any:
    """The server of a plugin's process, whose only own metric has this value."""
    return standard_server(
        metrics=Metrics(sources=[lambda: [MetricFamily.counter("c", "", "", {(): said})]])
    )[0]


def value(families: list[MetricFamily], **labels: str) -> Any:
    (family,) = (each for each in families if each.name == "c")
    (found,) = (p.value for p in family.points if set(labels.items()) <= set(p.labels))
    return found


async def test_while_two_processes_change_places_the_new_one_is_asked(short_dir: Path) -> None:
    """Whichever answers first: a counter that went back and forth would be a restart each time."""
    registry = Registry()
    tree: Any = SimpleNamespace(config=MeshConfig([PluginConfig("p", ["x"])]))
    registry.add_service("plugin.p")
    async with (
        serve_on_socket(short_dir / "old", process(1000)),
        serve_on_socket(short_dir / "new", process(1)),
    ):
        for number, name in enumerate(("old", "new")):
            where = f"unix:{short_dir / name}"
            registry.register("plugin.p", Endpoint(name, where, instance=0, pid=number + 1))
        gatherer = MetricsCollector(tree, registry, [], trio.lowlevel.checkpoint)
        for _ in range(20):
            assert value(await gatherer.collect(), plugin="p", plugin_instance="0") == 1


async def test_the_same_name_of_two_plugins(
    short_dir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Buckets may differ; what is a counter in one and a gauge in the other cannot be both."""
    two, three = (Histogram(bounds) for bounds in ((1.0,), (1.0, 2.0)))
    told = {
        "a": [
            MetricFamily("took", MetricKind.HISTOGRAM, "s", "", [MetricPoint((), two.snapshot())])
        ],
        "b": [
            MetricFamily("took", MetricKind.HISTOGRAM, "s", "", [MetricPoint((), three.snapshot())])
        ],
    }
    told["a"].append(MetricFamily.counter("hits", "", "", {(): 1}))
    told["b"].append(MetricFamily.gauge("hits", "", "", {(): 2}))
    registry = Registry()
    tree: Any = SimpleNamespace(config=MeshConfig([PluginConfig(name, ["x"]) for name in told]))
    async with AsyncExitStack() as stack:
        for name, families in told.items():
            server = standard_server(metrics=Metrics(sources=[lambda found=families: found]))[0]
            await stack.enter_async_context(serve_on_socket(short_dir / name, server))
            registry.add_service(f"plugin.{name}")
            endpoint = Endpoint(name, f"unix:{short_dir / name}", instance=0, pid=1)
            registry.register(f"plugin.{name}", endpoint)
        gatherer = MetricsCollector(tree, registry, [], trio.lowlevel.checkpoint)
        for _ in range(2):
            found = {family.name: family for family in await gatherer.collect()}
    assert [dict(point.labels)["plugin"] for point in found["took"].points] == ["a", "b"]
    assert [point.value for point in found["hits"].points] == [1]
    assert caplog.text.count("dropping metrics of b, such as 'hits': another source has") == 1


async def test_failures_count_though_the_scrape_is_cancelled(short_dir: Path) -> None:
    registry, scope = Registry(), trio.CancelScope()
    tree: Any = SimpleNamespace(config=MeshConfig([PluginConfig("p", ["x"])]))
    registry.add_service("plugin.p")
    endpoint = Endpoint("p", f"unix:{short_dir / 'gone'}", instance=0, pid=1)
    registry.register("plugin.p", endpoint)

    def give_up() -> list[MetricFamily]:
        scope.cancel()  # Once all instances were asked.
        return []

    collector = MetricsCollector(tree, registry, [give_up], trio.lowlevel.checkpoint)
    with scope:
        await collector.collect()
    assert scope.cancelled_caught
    families = {family.name: family for family in await collector.collect()}
    assert [point.value for point in families["mesh.collection.failures"].points] == [2]
