"""Metrics of a mesh: the lifecycle of its plugins, and the mesh itself.

Labels are bounded by the config: plugins, instance numbers, states and causes.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

import trio

from meshtrio.config import StartMethod
from meshtrio.discovery.dns.discovery import DnsDiscovery
from meshtrio.discovery.registry import Registry
from meshtrio.supervisor import events
from meshtrio.supervisor.instance import Instance
from meshtrio.supervisor.policy.restart import ExitCause
from meshtrio.supervisor.policy.state import InstanceState
from meshtrio.supervisor.statistics import GROUP_REASON, REPLACEMENT_REASON, InstanceKey
from meshtrio.supervisor.supervisor import Supervisor
from meshtrio.telemetry.metric_families import Histogram, Labels, MetricFamily, instance_labels
from meshtrio.telemetry.metrics.dns_metrics import collect_dns_metrics
from meshtrio.telemetry.metrics.resource_metrics import ResourceMetrics
from meshtrio.telemetry.metrics.task_metrics import collect_task_metrics
from meshtrio.util.version import VERSION

_LAG_INTERVAL = 0.25
"""Seconds between two measurements of the event loop's lag."""
_RESTART_REASONS = (*(cause.value for cause in ExitCause), REPLACEMENT_REASON, GROUP_REASON)

_RATE_LIMIT, _DROPPED = "the rate limit of the config", "Lines dropped because they exceeded"
_PLUGIN_COUNTERS = (
    ("starts", "", "starts", "Processes that were started."),
    ("not_started", "", "not_started", "Starts that failed before there was a process."),
    ("exits", "", "exits", "Processes that ended although the mesh had not stopped them."),
    ("killed", "", "killed", "Processes that did not stop in time, and were killed."),
    ("gave_up", "", "gave_up", "Times that the restart policy left an instance down."),
    ("unready", "", "unready", "Times that an instance reported NOT_SERVING."),
    ("log.lines", "{line}", "lines", f"Lines of stdout and stderr within {_RATE_LIMIT}."),
    ("log.dropped", "{line}", "lines_dropped", f"{_DROPPED} {_RATE_LIMIT}."),
)
"""Name and unit of a metric, its field of `LifecycleCounts`, and the help text."""


class MeshMetrics:
    """Counts lifecycle events as they happen, and reads the rest when it is collected."""

    def __init__(self, supervisor: Supervisor, registry: Registry, dns: DnsDiscovery) -> None:
        self._supervisor = supervisor
        self._registry = registry
        self._dns = dns
        # Those that were ready before an upgrade emit no event.
        ready = ((each.key, each.active_run) for each in supervisor.instances if each.is_ready)
        self._ready_since: dict[InstanceKey, float] = {
            key: run.ready_at for key, run in ready if run is not None and run.ready_at is not None
        }
        self._ready_durations = defaultdict[tuple[str, StartMethod], Histogram](Histogram)
        self._lag = Histogram()
        self._resources = ResourceMetrics()

    def on_event(self, event: events.LifecycleEvent) -> None:
        """Count an event of the supervisor."""
        if isinstance(event, events.Ready):
            if not event.was_ready_before:
                self._ready_durations[event.plugin, event.start].record([event.startup_time])
            self._ready_since[event.plugin, event.instance] = trio.current_time()

    async def measure_lag(self, *, task_status: trio.TaskStatus[None]) -> None:
        """Measure how late the event loop runs tasks that are due, until cancelled."""
        task_status.started()
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
        instances = self._supervisor.instances
        return [
            *self._mesh_families(),
            *collect_dns_metrics(self._dns),
            *self._plugin_families(),
            *self._instance_families(instances),
            *collect_task_metrics(self._supervisor.tasks.tasks.values()),
            *self._resources.collect(instances),
        ]

    def _mesh_families(self) -> list[MetricFamily]:
        def gauge(name: str, unit: str, text: str, value: float) -> MetricFamily:
            return MetricFamily.gauge(f"mesh.{name}", unit, text, {(): value})

        registry, info = self._registry, {(("version", VERSION),): 1}
        uptime, services = self._supervisor.statistics().uptime, len(registry.services())
        endpoints, total = registry.count_endpoints(), {(): registry.revision}
        lag, text = {(): self._lag.snapshot()}, "Delay of due tasks in the mesh's event loop."
        return [
            MetricFamily.gauge("mesh.info", "", "Version of the mesh; the value is 1.", info),
            gauge("uptime", "s", "Time since the mesh was started.", uptime),
            MetricFamily.histogram("mesh.loop.lag", "s", text, lag),
            gauge("registry.services", "{service}", "Services in the registry.", services),
            gauge("registry.endpoints", "{endpoint}", "Endpoints in the registry.", endpoints),
            MetricFamily.counter(
                "mesh.registry.changes", "{change}", "Changes of the registry.", total
            ),
        ]

    def _plugin_families(self) -> list[MetricFamily]:
        counts = {plugin.name: plugin.counts for plugin in self._supervisor.statistics().plugins}
        for plugin in self._supervisor.config.plugins:
            self._ready_durations[plugin.name, plugin.start]  # There before the first start.
        for key in [key for key in self._ready_durations if key[0] not in counts]:
            del self._ready_durations[key]

        def values(count: str) -> dict[Labels, int]:
            return {(("plugin", name),): getattr(each, count) for name, each in counts.items()}

        ready = {
            (("plugin", name), ("start", start.value)): histogram.snapshot()
            for (name, start), histogram in self._ready_durations.items()
        }
        text = "Time from the start of a process until it was ready."
        return [
            *(
                MetricFamily.counter(f"mesh.plugin.{name}", unit, help_text, values(count))
                for name, unit, count, help_text in _PLUGIN_COUNTERS
            ),
            MetricFamily.histogram("mesh.plugin.ready.duration", "s", text, ready),
        ]

    def _instance_families(self, instances: Iterable[Instance]) -> list[MetricFamily]:
        current = {(each.plugin, each.number): each for each in instances}
        self._ready_since = {key: t for key, t in self._ready_since.items() if key in current}
        now, counters = trio.current_time(), self._supervisor.counters
        text = "1 for the current state of an instance, 0 for the others."
        states = MetricFamily.gauge("mesh.instance.state", "", text)
        text = "Time since the instance became ready."
        since_ready = MetricFamily.gauge("mesh.instance.since_ready", "s", text)
        text = "Restarts of the instance, by cause."
        restarts = MetricFamily.counter("mesh.instance.restarts", "{restart}", text)
        text = "Duration of the last health check."
        latencies = MetricFamily.gauge("mesh.instance.liveness.duration", "s", text)
        text = "Health checks that were not answered."
        failed_checks = MetricFamily.counter("mesh.instance.liveness.failures", "{check}", text)
        for key, each in current.items():
            labels, run = instance_labels(*key), each.active_run
            for state in InstanceState:
                states.add((*labels, ("state", state.value)), float(each.state is state))
            if each.is_ready and key in self._ready_since:
                since_ready.add(labels, now - self._ready_since[key])
            for reason in _RESTART_REASONS:
                restarts.add((*labels, ("reason", reason)), counters.restarts[key, reason])
            if run is not None and run.last_check is not None:
                latencies.add(labels, run.last_check.latency)
            failed_checks.add(labels, counters.failed_checks[key])
        return [states, since_ready, restarts, latencies, failed_checks]
