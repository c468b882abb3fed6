"""Plans which instances to start and which to stop next: a pure function of their table.

Requests change the phases of instances; `plan` finds the starts and stops that may happen now, in
the order of `depends_on`: a plugin is started once its dependencies are ready, and stopped once
those of its dependents that are to be stopped have stopped.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Generic, Protocol, TypeVar

import attrs

from meshtrio.config.topology import Dependencies
from meshtrio.supervisor.policy.state import InstancePhase


class InstanceView(Protocol):
    """What planning reads of an instance."""

    @property
    def plugin(self) -> str:
        """The name of its plugin."""

    phase: InstancePhase
    """What the supervisor is doing with it."""

    @property
    def is_running(self) -> bool:
        """Whether it has a process; one that waits may still have runs that drain."""

    @property
    def is_starting(self) -> bool:
        """Whether its active run has not been ready yet."""

    @property
    def is_ready(self) -> bool:
        """Whether its active run is ready."""

    start_at: float
    """The earliest time of its next start, in seconds of the monotonic clock."""
    batch: int
    """Its batch, 0 for none: all of a batch stop before the first is started again."""


E = TypeVar("E", bound=InstanceView)


@attrs.frozen
class Plan(Generic[E]):
    """What to do next."""

    start: tuple[E, ...]
    """The instances to start now."""
    stop: tuple[E, ...]
    """The instances to stop now."""
    wake_at: float
    """When the next start is due, if nothing happens before."""


def plan(table: Sequence[E], dependencies: Dependencies, now: float, max_starting: int) -> Plan[E]:
    """Find what can be done at `now`, with at most `max_starting` instances starting at once."""
    ready = {entry.plugin for entry in table if entry.is_ready}
    # Batches of which an instance has yet to stop.
    emptying = {
        entry.batch
        for entry in table
        if entry.phase.is_restarting or (entry.phase.is_waiting and entry.is_running)
    } - {0}
    startable = [
        entry
        for entry in table
        if entry.phase.is_waiting
        and not entry.is_running
        and entry.batch not in emptying
        and dependencies.get(entry.plugin, frozenset()) <= ready
    ]
    later = (entry.start_at for entry in startable if entry.start_at > now)
    # The longest due first, so that those which fail again and again do not delay the others.
    due = sorted((e for e in startable if e.start_at <= now), key=lambda entry: entry.start_at)
    room = max_starting - sum(entry.is_starting for entry in table)
    leaving = [e for e in table if e.is_running and (e.phase.is_leaving or e.phase.is_final)]
    needed = {name for entry in leaving for name in dependencies.get(entry.plugin, ())}
    return Plan(
        start=tuple(due[: max(room, 0)]),
        stop=tuple(e for e in leaving if e.phase.is_stop_queued and e.plugin not in needed),
        wake_at=min(later, default=math.inf),
    )


def find_unready_dependencies(
    instance: E, instances: Sequence[E], dependencies: Dependencies
) -> list[list[E]]:
    """Find what an instance without a process waits for.

    Returns:
        For each plugin that it depends on, directly or not, and of which no instance is ready: the
        instances of that plugin.
    """
    found: list[list[E]] = []
    plugins = set() if instance.is_running else {instance.plugin}
    seen = set(plugins)
    while plugins:
        needed = dependencies.get(plugins.pop(), frozenset()) - seen
        seen |= needed
        for name in needed:
            of_plugin = [each for each in instances if each.plugin == name]
            if not any(each.is_ready for each in of_plugin):
                found.append(of_plugin)
                plugins.add(name)
    return found
