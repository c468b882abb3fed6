"""Plans which instances to start and which to stop next: a pure function of their table.

Requests change the phases of instances; `plan` finds the starts and stops that may happen now, in
the order of `depends_on`: a plugin is started once its dependencies are available, and stopped once
those of its dependents that are to be stopped have stopped. Tasks are started in the same order.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
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
    def is_available(self) -> bool:
        """Whether its active run is ready, or its socket accepts connections, which start one."""

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


def plan(
    table: Sequence[E],
    dependencies: Dependencies,
    now: float,
    max_starting: int,
    blocked: Collection[str] = (),
) -> Plan[E]:
    """Find what can be done at `now`, with at most `max_starting` instances starting at once.

    Plugins that are `blocked`, since a task has to complete first, are not started.
    """
    ready = {entry.plugin for entry in table if entry.is_available}
    # Batches of which an instance has yet to stop.
    emptying = {
        entry.batch
        for entry in table
        if entry.phase.is_restarting
        or entry.phase is InstancePhase.IDLING
        or (entry.phase.is_waiting and entry.is_running)
    } - {0}
    startable = [
        entry
        for entry in table
        if entry.phase.is_waiting
        and not entry.is_running
        and entry.batch not in emptying
        and entry.plugin not in blocked
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


class TaskView(Protocol):
    """What planning reads of a task."""

    @property
    def name(self) -> str:
        """Its name."""

    @property
    def is_waiting(self) -> bool:
        """Whether it is to be started."""

    @property
    def is_stop_queued(self) -> bool:
        """Whether its process is to be stopped, and was not yet asked to."""

    @property
    def is_running(self) -> bool:
        """Whether it has a process."""

    start_at: float
    """The earliest time of its start, in seconds of the monotonic clock."""


T = TypeVar("T", bound=TaskView)


@attrs.frozen
class TaskPlan(Generic[T]):
    """What to do next with tasks."""

    start: tuple[T, ...]
    """The tasks to start now."""
    stop: tuple[T, ...]
    """The tasks to stop now."""
    wake_at: float
    """When the next start is due, if nothing happens before."""


@attrs.frozen
class DependencyStatus:
    """Which dependencies are met."""

    dependencies: Dependencies
    """What has to be ready."""
    completions: Dependencies
    """What has to have completed."""
    ready: frozenset[str]
    """The plugins of which an instance is ready."""
    completed: frozenset[str]
    """The tasks and plugins that have completed."""

    def find_unready(self, name: str) -> frozenset[str]:
        """Return the plugins that a plugin or task waits for to be ready."""
        return self.dependencies.get(name, frozenset()) - self.ready

    def find_incomplete(self, name: str) -> frozenset[str]:
        """Return the plugins and tasks that a plugin or task waits for to have completed."""
        return self.completions.get(name, frozenset()) - self.completed

    def find_blocked(self) -> frozenset[str]:
        """Return the plugins and tasks that wait for one to have completed."""
        return frozenset(name for name in self.completions if self.find_incomplete(name))


def plan_tasks(table: Sequence[T], status: DependencyStatus, now: float) -> TaskPlan[T]:
    """Find which tasks can be started and stopped at `now`.

    A task is stopped once those that depend on it have ended.
    """
    startable = [
        task
        for task in table
        if task.is_waiting
        and not status.find_unready(task.name)
        and not status.find_incomplete(task.name)
    ]
    needed = {
        name
        for task in table
        if task.is_running
        for name in status.completions.get(task.name, frozenset())
    }
    return TaskPlan(
        start=tuple(task for task in startable if task.start_at <= now),
        stop=tuple(task for task in table if task.is_stop_queued and task.name not in needed),
        wake_at=min((t.start_at for t in startable if t.start_at > now), default=math.inf),
    )


def find_unready_dependencies(
    instance: E, instances: Sequence[E], dependencies: Dependencies
) -> list[list[E]]:
    """Find what an instance without a process waits for.

    Returns:
        For each plugin that it depends on, directly or not, and of which no instance is available:
        the instances of that plugin.
    """
    found: list[list[E]] = []
    plugins = set() if instance.is_running else {instance.plugin}
    seen = set(plugins)
    while plugins:
        needed = dependencies.get(plugins.pop(), frozenset()) - seen
        seen |= needed
        for name in needed:
            of_plugin = [each for each in instances if each.plugin == name]
            if not any(each.is_available for each in of_plugin):
                found.append(of_plugin)
                plugins.add(name)
    return found
