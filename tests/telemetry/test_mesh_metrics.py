"""Metrics that count lifecycle events."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from meshtrio.config import MeshConfig, PluginConfig, StartMethod
from meshtrio.discovery.dns.discovery import DnsDiscovery
from meshtrio.discovery.registry import Registry
from meshtrio.supervisor.events import Ready
from meshtrio.telemetry.metrics.mesh_metrics import MeshMetrics


def make_supervisor(*plugins: PluginConfig) -> Any:
    counts = SimpleNamespace(
        starts=0,
        not_started=0,
        exits=0,
        killed=0,
        gave_up=0,
        unready=0,
        lines=0,
        lines_dropped=0,
    )
    entries = [SimpleNamespace(name=plugin.name, counts=counts) for plugin in plugins]
    statistics = SimpleNamespace(plugins=entries, uptime=1.0)
    return SimpleNamespace(
        config=MeshConfig(plugins),
        statistics=lambda: statistics,
        instances=(),
        counters=None,
        tasks=SimpleNamespace(tasks={}),
    )


def count_ready(metrics: MeshMetrics) -> dict[tuple[str, ...], int]:
    (family,) = [each for each in metrics.collect() if each.name == "mesh.plugin.ready.duration"]
    found = {}
    for point in family.points:
        assert not isinstance(point.value, float)
        found[tuple(value for _, value in point.labels)] = sum(point.value.counts)
    return found


async def test_durations_until_ready_are_counted_by_start_and_once_for_each_process() -> None:
    plugins = [
        PluginConfig("p", ["x"]),
        PluginConfig("q", ["{python}", "x"], start=StartMethod.FORK),
    ]
    supervisor = make_supervisor(*plugins)
    registry = Registry()
    metrics = MeshMetrics(supervisor, registry, DnsDiscovery(registry))
    assert count_ready(metrics) == {("p", "exec"): 0, ("q", "fork"): 0}
    fork, exec_ = StartMethod.FORK, StartMethod.EXEC
    metrics.on_event(Ready("q", 0, pid=1, startup_time=0.1, start=fork))
    metrics.on_event(Ready("q", 1, pid=2, startup_time=0.1, start=exec_))
    metrics.on_event(Ready("q", 0, pid=1, startup_time=9.0, start=fork, was_ready_before=True))
    assert count_ready(metrics) == {("p", "exec"): 0, ("q", "fork"): 1, ("q", "exec"): 1}
    vars(supervisor).update(vars(make_supervisor(plugins[0])))
    assert count_ready(metrics) == {("p", "exec"): 0}
