"""What a mesh has been through, in numbers that are counted as it happens: asking is cheap."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence

import attrs

from meshtrio.supervisor import events
from meshtrio.supervisor.instance import Instance
from meshtrio.supervisor.policy.state import InstanceState


@attrs.frozen
class LifecycleCounts:
    """Since the mesh was started, over all instances, those that are gone included."""

    starts: int = 0
    restarts: int = 0
    """Starts that followed a failure or an exit, by the restart policy."""
    renewals: int = 0
    not_started: int = 0
    """Starts that came to nothing: there was no process."""
    exits: int = 0
    """Processes that ended without being asked to."""
    killed: int = 0
    """Processes that did not stop in time."""
    gave_up: int = 0
    unready: int = 0
    """Times that one said NOT_SERVING."""
    lines: int = 0
    lines_dropped: int = 0


@attrs.frozen
class PluginStatistics:
    """One plugin as it is now. `states` counts instances by state."""

    name: str
    instances: int
    states: tuple[tuple[InstanceState, int], ...]
    counts: LifecycleCounts
    rss: int
    """Bytes its process groups have in memory, where that is watched."""
    slowest_check: float
    """Seconds that the slowest of the instances' last health checks took."""


@attrs.frozen
class MeshStatistics:
    """The mesh, its groups and its plugins; `uptime` in seconds."""

    uptime: float
    plugins: tuple[PluginStatistics, ...]
    groups: tuple[PluginStatistics, ...]
    """The sums over each group's plugins."""
    total: PluginStatistics

    def plugin(self, name: str) -> PluginStatistics:
        """Raises KeyError."""
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
    """A subscriber that counts."""

    def __init__(self) -> None:
        self._counts: defaultdict[str, Counter[str]] = defaultdict(Counter)

    def on_event(self, event: events.LifecycleEvent) -> None:
        counts = self._counts[event.plugin]
        what = _COUNTER_NAMES.get(type(event))
        if what is not None:
            counts[what] += 1
        elif isinstance(event, events.LinesDropped):
            counts["lines_dropped"] += event.count
        elif isinstance(event, events.Stopped) and event.was_killed:
            counts["killed"] += 1

    def summarize(
        self, name: str, plugins: Iterable[str], instances: Mapping[str, Sequence[Instance]]
    ) -> PluginStatistics:
        """Sum up the plugins of these names; `children` are all instances, by plugin."""
        names = frozenset(plugins)
        there = [child for plugin in names for child in instances.get(plugin, ())]
        total: Counter[str] = Counter()
        for plugin in names:
            total.update(self._counts[plugin])
        lives = [child.active_run for child in there if child.active_run is not None]
        return PluginStatistics(
            name=name,
            instances=len(there),
            states=tuple(Counter(child.state for child in there).items()),
            counts=LifecycleCounts(**total),
            rss=sum(life.rss for life in lives),
            slowest_check=max(
                (life.last_check.latency for life in lives if life.last_check), default=0.0
            ),
        )
