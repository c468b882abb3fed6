"""Metrics of a mesh: the lifecycle of its plugins, and the mesh itself.

Labels are bounded by the config: plugins, instance numbers, states and causes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Protocol

import trio

from meshtrio import __version__
from meshtrio.supervisor import events
from meshtrio.supervisor.instance import Instance
from meshtrio.supervisor.policy.restart import ExitCause
from meshtrio.supervisor.policy.state import InstanceState
from meshtrio.supervisor.statistics import (
    GROUP_REASON,
    REPLACEMENT_REASON,
    InstanceKey,
    LifecycleCounts,
)
from meshtrio.supervisor.supervisor import Supervisor
from meshtrio.telemetry.metric_families import (
    Labels,
    MetricFamily,
    MetricKind,
    MetricPoint,
    counter_family,
    gauge_family,
    instance_labels,
)
from meshtrio.telemetry.metrics.histogram import LATENCY_BUCKETS, Histogram
from meshtrio.telemetry.metrics.resource_metrics import ResourceMetrics

_LAG_INTERVAL = 0.25
"""Seconds between two measurements of the event loop's lag."""
_RESTART_REASONS = (*(cause.value for cause in ExitCause), REPLACEMENT_REASON, GROUP_REASON)

_COUNTER_HELP = {
    "starts": "Processes that were started.",
    "not_started": "Starts that failed before there was a process.",
    "exits": "Processes that ended although the mesh had not stopped them.",
    "killed": "Processes that did not stop in time, and were killed.",
    "gave_up": "Times that the restart policy left an instance down.",
    "unready": "Times that an instance reported NOT_SERVING.",
}


class RegistryStats(Protocol):
    """The part of a registry that is measured."""

    revision: int

    def services(self) -> tuple[str, ...]: ...

    def count_endpoints(self) -> int: ...


class MeshMetrics:
    """Counts lifecycle events as they happen, and reads the rest when it is collected."""

    def __init__(self, supervisor: Supervisor, registry: RegistryStats) -> None:
        self._supervisor = supervisor
        self._registry = registry
        self._ready_since: dict[InstanceKey, float] = {}
        self._ready_durations: dict[str, Histogram] = {}
        self._lag = Histogram(LATENCY_BUCKETS)
        self._resources = ResourceMetrics()

    def on_event(self, event: events.LifecycleEvent) -> None:
        """Count an event of the supervisor."""
        instance = (event.plugin, event.instance)
        match event:
            case events.Ready(startup_time=after):
                histogram = self._ready_durations.setdefault(
                    event.plugin, Histogram(LATENCY_BUCKETS)
                )
                histogram.record([after])
                self._ready_since[instance] = trio.current_time()

    async def measure_lag(self) -> None:
        """Measure how late the event loop runs tasks that are due, until cancelled."""
        due = trio.current_time() + _LAG_INTERVAL
        while True:
            await trio.sleep_until(due)
            now = trio.current_time()
            self._lag.record([now - due])
            due = now + _LAG_INTERVAL

    async def sample(self) -> None:
        """Sample the processes' resource usage, which `collect` reports."""
        await self._resources.sample(self._supervisor.instances)

    def collect(self) -> list[MetricFamily]:
        """Return all families, as of now."""
        children = self._supervisor.instances
        return [
            *self._mesh_families(),
            *self._plugin_families(),
            *self._instance_families(children),
            *self._resources.collect(children),
        ]

    # -- the mesh ----------------------------------------------------------------------------

    def _mesh_families(self) -> list[MetricFamily]:
        statistics, registry = self._supervisor.statistics(), self._registry
        return [
            gauge_family(
                "mesh.info",
                "",
                "Version of the mesh; the value is 1.",
                {(("version", __version__),): 1},
            ),
            gauge_family(
                "mesh.uptime", "s", "Time since the mesh was started.", {(): statistics.uptime}
            ),
            _histogram_family(
                "mesh.loop.lag",
                "Delay of due tasks in the mesh's event loop.",
                {(): self._lag},
            ),
            gauge_family(
                "mesh.registry.services",
                "{service}",
                "Services in the registry.",
                {(): len(registry.services())},
            ),
            gauge_family(
                "mesh.registry.endpoints",
                "{endpoint}",
                "Endpoints in the registry.",
                {(): registry.count_endpoints()},
            ),
            counter_family(
                "mesh.registry.changes",
                "{change}",
                "Changes of the registry.",
                {(): registry.revision},
            ),
        ]

    # -- plugins -----------------------------------------------------------------------------

    def _plugin_families(self) -> list[MetricFamily]:
        counts = {plugin.name: plugin.counts for plugin in self._supervisor.statistics().plugins}
        self._ready_durations = {
            name: self._ready_durations.get(name) or Histogram(LATENCY_BUCKETS) for name in counts
        }

        def counted(what: str) -> Mapping[Labels, float]:
            return {_plugin_labels(name): _get_count(each, what) for name, each in counts.items()}

        found = [
            counter_family(f"mesh.plugin.{what}", "", text, counted(what))
            for what, text in _COUNTER_HELP.items()
        ]
        return [
            *found,
            counter_family(
                "mesh.plugin.log.lines",
                "{line}",
                "Lines that were read from stdout and stderr.",
                counted("lines"),
            ),
            counter_family(
                "mesh.plugin.log.dropped",
                "{line}",
                "Lines dropped because they exceeded the rate limit of the config.",
                counted("lines_dropped"),
            ),
            _histogram_family(
                "mesh.plugin.ready.duration",
                "Time from the start of a process until it was ready.",
                {_plugin_labels(name): found for name, found in self._ready_durations.items()},
            ),
        ]

    # -- instances ---------------------------------------------------------------------------

    def _instance_families(self, instances: Iterable[Instance]) -> list[MetricFamily]:
        current = {(child.plugin, child.number): child for child in instances}
        self._remove_other_instances(current)
        now, counters = trio.current_time(), self._supervisor.counters
        ready = {key: since for key, since in self._ready_since.items() if current[key].is_ready}
        checks = {
            key: child.active_run.last_check.latency
            for key, child in current.items()
            if child.active_run is not None and child.active_run.last_check is not None
        }
        return [
            gauge_family(
                "mesh.instance.state",
                "",
                "1 for the current state of an instance, 0 for the others.",
                {
                    (*_labels_of_key(key), ("state", state.value)): float(child.state is state)
                    for key, child in current.items()
                    for state in InstanceState
                },
            ),
            gauge_family(
                "mesh.instance.since_ready",
                "s",
                "Time since the instance became ready.",
                {_labels_of_key(key): now - since for key, since in ready.items()},
            ),
            counter_family(
                "mesh.instance.restarts",
                "{restart}",
                "Restarts of the instance, by cause.",
                {
                    (*_labels_of_key(key), ("reason", reason)): counters.restarts[key, reason]
                    for key in current
                    for reason in _RESTART_REASONS
                },
            ),
            gauge_family(
                "mesh.instance.liveness.duration",
                "s",
                "Duration of the last health check.",
                {_labels_of_key(key): latency for key, latency in checks.items()},
            ),
            counter_family(
                "mesh.instance.liveness.failures",
                "{check}",
                "Health checks that were not answered.",
                {_labels_of_key(key): counters.failed_checks[key] for key in current},
            ),
        ]

    def _remove_other_instances(self, current: Mapping[InstanceKey, object]) -> None:
        for gone in [key for key in self._ready_since if key not in current]:
            del self._ready_since[gone]


def _get_count(counts: LifecycleCounts, what: str) -> int:
    found: int = getattr(counts, what)
    return found


def _plugin_labels(name: str) -> Labels:
    return (("plugin", name),)


def _labels_of_key(key: InstanceKey) -> Labels:
    return instance_labels(*key)


def _histogram_family(name: str, text: str, values: Mapping[Labels, Histogram]) -> MetricFamily:
    points = [MetricPoint(labels, histogram.snapshot()) for labels, histogram in values.items()]
    return MetricFamily(name, MetricKind.HISTOGRAM, "s", text, points)
