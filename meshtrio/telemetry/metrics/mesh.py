"""The metrics of a mesh: what its plugins go through, and how it is itself.

Labels are bounded by the config: plugins, the numbers of their instances, states and causes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Protocol

import trio

from meshtrio import __version__
from meshtrio.supervise import events
from meshtrio.supervise.child import Child
from meshtrio.supervise.decisions.policy import Cause
from meshtrio.supervise.decisions.state import State
from meshtrio.supervise.statistics import Counts
from meshtrio.supervise.tree import Tree
from meshtrio.telemetry.families import (
    Family,
    Kind,
    Labels,
    Point,
    counter,
    gauge,
    instance_labels,
)
from meshtrio.telemetry.metrics.histogram import LATENCY, Histogram
from meshtrio.telemetry.metrics.machine import MachineMetrics

_BEAT = 0.25
"""Seconds from one look at the clock to the next, by which the lag of the mesh's loop is known."""
_RENEWED, _WITH_GROUP = "renewal", "group"
_REASONS = (*(cause.value for cause in Cause), _RENEWED, _WITH_GROUP)

Instance = tuple[str, int]

_COUNTED = {
    "starts": "Processes that were started.",
    "not_started": "Starts that came to nothing: there was no process.",
    "exits": "Processes that ended without being asked to.",
    "killed": "Processes that did not stop in time, and were killed.",
    "gave_up": "Times that the restart policy left an instance down.",
    "unready": "Times that an instance said NOT_SERVING.",
}


class RegistryInNumbers(Protocol):
    """What is told of a registry."""

    changes: int

    def services(self) -> tuple[str, ...]: ...

    def count_endpoints(self) -> int: ...


class MeshMetrics:
    """A subscriber to lifecycle events, which are counted as they come; the rest is looked up when
    somebody asks."""

    def __init__(self, tree: Tree, registry: RegistryInNumbers) -> None:
        self._tree = tree
        self._registry = registry
        self._restarts: Counter[tuple[str, int, str]] = Counter()
        self._failed_checks: Counter[Instance] = Counter()
        self._causes: dict[Instance, Cause] = {}
        self._ready_since: dict[Instance, float] = {}
        self._ready_after: dict[str, Histogram] = {}
        self._lag = Histogram(LATENCY)
        self._machine = MachineMetrics()

    def take(self, event: events.Event) -> None:
        instance = (event.plugin, event.instance)
        match event:
            case events.Ready(after=after):
                histogram = self._ready_after.setdefault(event.plugin, Histogram(LATENCY))
                histogram.add([after])
                self._ready_since[instance] = trio.current_time()
            case events.CheckFailed():
                self._failed_checks[instance] += 1
            case events.Exited(ended=ended) | events.NotStarted(ended=ended):
                self._causes[instance] = ended.cause
            case events.Restarting():
                cause = self._causes.get(instance, Cause.EXITED)
                self._restarts[(*instance, cause.value)] += 1
            case events.Renewing():
                self._restarts[(*instance, _RENEWED)] += 1
            case events.GroupRestarting(plugins=plugins):
                for child in self._tree.children:
                    if child.plugin in plugins:
                        self._restarts[(child.plugin, child.number, _WITH_GROUP)] += 1

    async def measure_lag(self) -> None:
        """Look how late the loop comes to what is due, until cancelled."""
        due = trio.current_time() + _BEAT
        while True:
            await trio.sleep_until(due)
            now = trio.current_time()
            self._lag.add([now - due])
            due = now + _BEAT

    def families(self) -> list[Family]:
        """All there is now, except for what `machine_families` gives."""
        return [
            *self._of_the_mesh(),
            *self._of_plugins(),
            *self._of_instances(self._tree.children),
        ]

    def machine_families(self) -> list[Family]:
        """What processes use of the machine.

        Reads /proc, where the descriptors of one process may be a million entries; to be called in
        a thread.
        """
        return self._machine.families(self._tree.children)

    # -- the mesh ----------------------------------------------------------------------------

    def _of_the_mesh(self) -> list[Family]:
        statistics, registry = self._tree.statistics(), self._registry
        return [
            gauge("mesh.info", "", "The mesh, and its version.", {(("version", __version__),): 1}),
            gauge("mesh.uptime", "s", "Since the mesh was started.", {(): statistics.uptime}),
            _histogram(
                "mesh.loop.lag",
                "How late the mesh's loop comes to what is due.",
                {(): self._lag},
            ),
            gauge(
                "mesh.registry.services",
                "{service}",
                "Services in the registry.",
                {(): len(registry.services())},
            ),
            gauge(
                "mesh.registry.endpoints",
                "{endpoint}",
                "Endpoints in the registry.",
                {(): registry.count_endpoints()},
            ),
            counter(
                "mesh.registry.changes",
                "{change}",
                "Changes of what the registry knows.",
                {(): registry.changes},
            ),
        ]

    # -- plugins -----------------------------------------------------------------------------

    def _of_plugins(self) -> list[Family]:
        counts = {plugin.name: plugin.counts for plugin in self._tree.statistics().plugins}
        self._ready_after = {
            name: self._ready_after.get(name) or Histogram(LATENCY) for name in counts
        }

        def counted(what: str) -> Mapping[Labels, float]:
            return {_plugin(name): _count(each, what) for name, each in counts.items()}

        found = [
            counter(f"mesh.plugin.{what}", "", text, counted(what))
            for what, text in _COUNTED.items()
        ]
        return [
            *found,
            counter(
                "mesh.plugin.log.lines", "{line}", "Lines that were written.", counted("lines")
            ),
            counter(
                "mesh.plugin.log.dropped",
                "{line}",
                "Lines that came faster than the config lets them.",
                counted("lines_dropped"),
            ),
            _histogram(
                "mesh.plugin.ready.duration",
                "From the start of a process to when it was ready.",
                {_plugin(name): found for name, found in self._ready_after.items()},
            ),
        ]

    # -- instances ---------------------------------------------------------------------------

    def _of_instances(self, children: Iterable[Child]) -> list[Family]:
        there = {(child.plugin, child.number): child for child in children}
        self._forget_all_but(there)
        now = trio.current_time()
        ready = {key: since for key, since in self._ready_since.items() if there[key].ready}
        checks = {
            key: child.life.health.latency
            for key, child in there.items()
            if child.life is not None and child.life.health is not None
        }
        return [
            gauge(
                "mesh.instance.state",
                "",
                "1 for the state that an instance is in, 0 for the others.",
                {
                    (*_instance(key), ("state", state.value)): float(child.state is state)
                    for key, child in there.items()
                    for state in State
                },
            ),
            gauge(
                "mesh.instance.since_ready",
                "s",
                "Since it was ready.",
                {_instance(key): now - since for key, since in ready.items()},
            ),
            counter(
                "mesh.instance.restarts",
                "{restart}",
                "Times that it was started again, by what had happened.",
                {
                    (*_instance(key), ("reason", reason)): self._restarts[(*key, reason)]
                    for key in there
                    for reason in _REASONS
                },
            ),
            gauge(
                "mesh.instance.liveness.duration",
                "s",
                "What its last health check took.",
                {_instance(key): latency for key, latency in checks.items()},
            ),
            counter(
                "mesh.instance.liveness.failures",
                "{check}",
                "Health checks that were not answered.",
                {_instance(key): self._failed_checks[key] for key in there},
            ),
        ]

    def _forget_all_but(self, there: Mapping[Instance, object]) -> None:
        for restarted in [key for key in self._restarts if key[:2] not in there]:
            del self._restarts[restarted]
        for known in (self._failed_checks, self._causes, self._ready_since):
            for gone in [key for key in known if key not in there]:
                del known[gone]


def _count(counts: Counts, what: str) -> int:
    found: int = getattr(counts, what)
    return found


def _plugin(name: str) -> Labels:
    return (("plugin", name),)


def _instance(key: Instance) -> Labels:
    return instance_labels(*key)


def _histogram(name: str, text: str, values: Mapping[Labels, Histogram]) -> Family:
    points = [Point(labels, histogram.told()) for labels, histogram in values.items()]
    return Family(name, Kind.HISTOGRAM, "s", text, points)
