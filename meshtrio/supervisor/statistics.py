"""Statistics of a mesh, counted as events happen, so that reading them is cheap."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial

import attrs

from meshtrio.config import MeshConfig
from meshtrio.config.topology import Topology
from meshtrio.supervisor import events
from meshtrio.supervisor.instance import Instance
from meshtrio.supervisor.policy.state import InstanceState
from meshtrio.supervisor.saved_state import SavedCounters

REPLACEMENT_REASON, GROUP_REASON = "renewal", "group"
"""The reasons of a restart that no exit has caused; the others are values of `ExitCause`."""

InstanceKey = tuple[str, int]
"""The name of a plugin and the number of an instance."""


@attrs.frozen
class LifecycleCounts:
    """Counts since the mesh was started, over all instances, including those removed since."""

    starts: int = 0
    """Number of processes that were started."""
    restarts: int = 0
    """Number of starts by the restart policy, after a failure or an exit."""
    renewals: int = 0
    """Number of replacements that were started."""
    not_started: int = 0
    """Number of starts that failed before there was a process."""
    exits: int = 0
    """Number of processes that ended without a request to stop."""
    killed: int = 0
    """Number of processes that did not stop in time, and were killed."""
    gave_up: int = 0
    """Number of times that the restart policy left an instance down."""
    unready: int = 0
    """Number of times that a process reported NOT_SERVING."""
    lines: int = 0
    """Number of lines of output that were passed on."""
    lines_dropped: int = 0
    """Number of lines of output that were dropped, since they came too fast."""


@attrs.frozen
class PluginStatistics:
    """Statistics of a plugin, or of several together, as they are now."""

    name: str
    """The name of the plugin or group; `mesh` for the whole mesh."""
    instances: int
    """Number of instances."""
    states: tuple[tuple[InstanceState, int], ...]
    """Number of instances by state."""
    counts: LifecycleCounts
    """Counts of what has happened to the instances."""
    rss: int
    """Bytes of resident memory of the process groups, of plugins whose memory is monitored."""
    slowest_check: float
    """Seconds that the slowest of the instances' last health checks took."""


@attrs.frozen
class MeshStatistics:
    """Statistics of the mesh, its groups and its plugins."""

    uptime: float
    """Seconds since the mesh was started."""
    plugins: tuple[PluginStatistics, ...]
    """Statistics by plugin, in the order of the config."""
    groups: tuple[PluginStatistics, ...]
    """Statistics by group: the sums over its plugins."""
    total: PluginStatistics
    """The sums over all plugins."""

    def plugin(self, name: str) -> PluginStatistics:
        """Return the statistics of a plugin. Raises KeyError."""
        return {plugin.name: plugin for plugin in self.plugins}[name]


_COUNTER_NAMES = {
    events.Starting: "starts",
    events.NotStarted: "not_started",
    events.Restarting: "restarts",
    events.Renewing: "renewals",
    events.Exited: "exits",
    events.GaveUp: "gave_up",
    events.Unready: "unready",
    events.LineWritten: "lines",
}


class LifecycleCounters:
    """The one subscriber that counts events; statistics and metrics are views of it."""

    def __init__(self, list_instances: Callable[[], Iterable[Instance]]) -> None:
        """Create counters; `list_instances` returns the instances that there are now."""
        self.restarts: Counter[tuple[InstanceKey, str]] = Counter()
        """Number of restarts by instance and reason, including replacements and group restarts."""
        self.failed_checks: Counter[InstanceKey] = Counter()
        """Number of health checks that were not answered, by instance."""
        self._by_plugin: defaultdict[str, Counter[str]] = defaultdict(Counter)
        self._list_instances = list_instances

    def adopt(self, saved: SavedCounters) -> None:
        """Continue to count what was counted before an upgrade."""
        for plugin, counts in saved.by_plugin.items():
            self._by_plugin[plugin].update(counts)
        for plugin, number, reason, count in saved.restarts:
            self.restarts[(plugin, number), reason] += count
        for plugin, number, count in saved.failed_checks:
            self.failed_checks[plugin, number] += count

    def save(self) -> SavedCounters:
        """Return what an upgrade hands over."""
        return SavedCounters(
            by_plugin={name: dict(counts) for name, counts in self._by_plugin.items()},
            restarts=tuple((*key, reason, n) for (key, reason), n in self.restarts.items()),
            failed_checks=tuple((*key, n) for key, n in self.failed_checks.items()),
        )

    def on_event(self, event: events.LifecycleEvent) -> None:
        """Count an event."""
        counts, key = self._by_plugin[event.plugin], (event.plugin, event.instance)
        name = _COUNTER_NAMES.get(type(event))
        if name is not None:
            counts[name] += 1
        match event:
            case events.LineWritten():
                return  # By far the most frequent event.
            case events.LinesDropped(count=count):
                counts["lines_dropped"] += count
            case events.Stopped(was_killed=was_killed):
                counts["killed"] += was_killed
            case events.CheckFailed(condition=condition):
                # A check that was rejected was answered.
                self.failed_checks[key] += condition is not None
            case events.Restarting(cause=cause):
                self.restarts[key, cause.value] += 1
            case events.Renewing():
                self.restarts[key, REPLACEMENT_REASON] += 1
            case events.GroupRestarting(plugins=plugins):
                restarted = (i.key for i in self._list_instances() if i.plugin in plugins)
                self.restarts.update((key, GROUP_REASON) for key in restarted)

    def summarize_mesh(
        self,
        config: MeshConfig,
        topology: Topology,
        uptime: float,
        instances: Mapping[str, Sequence[Instance]],
    ) -> MeshStatistics:
        """Sum up the mesh, its groups and its plugins; `instances` are all instances, by plugin."""
        plugins = [plugin.name for plugin in config.plugins]
        summarize = partial(self._summarize, instances=instances)
        return MeshStatistics(
            uptime=uptime,
            plugins=tuple(summarize(name, [name]) for name in plugins),
            groups=tuple(
                summarize(group.name, topology.plugins_in(group.name)) for group in config.groups
            ),
            total=summarize("mesh", plugins),
        )

    def _summarize(
        self, name: str, plugins: Iterable[str], instances: Mapping[str, Sequence[Instance]]
    ) -> PluginStatistics:
        """Sum up plugins under a name; `instances` are all instances, by plugin."""
        names = frozenset(plugins)
        included = [instance for plugin in names for instance in instances.get(plugin, ())]
        total: Counter[str] = sum((self._by_plugin[name] for name in names), Counter())
        runs = [each.active_run for each in included if each.active_run is not None]
        latencies = [run.last_check.latency for run in runs if run.last_check]
        return PluginStatistics(
            name=name,
            instances=len(included),
            states=tuple(Counter(instance.state for instance in included).items()),
            counts=LifecycleCounts(**total),
            rss=sum(run.rss for run in runs),
            slowest_check=max(latencies, default=0.0),
        )
