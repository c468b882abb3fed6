"""Groups of plugins that are restarted together, after OTP's supervisors. Pure.

The graph of plugins, groups and tasks is their membership, and the order in which plugins and tasks
are started.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from enum import Enum
from graphlib import CycleError, TopologicalSorter

import attrs

from meshtrio.config.dependency import Dependency, DependencyCondition, to_dependencies
from meshtrio.config.lifecycle import EscalationScope, RestartPolicy
from meshtrio.config.plugin import PluginConfig
from meshtrio.config.program import check_name
from meshtrio.config.task import TaskConfig
from meshtrio.config.validators import at_least, is_positive, require, to_strings

Dependencies = Mapping[str, frozenset[str]]
"""Maps each plugin and task to the plugins that have to be ready before it is started, or to the
plugins and tasks that have to have completed."""


class Strategy(Enum):
    """Which members are restarted with one that failed (OTP, `supervisor`)."""

    ONE_FOR_ONE = "one-for-one"
    """Only the failed member is restarted."""
    ONE_FOR_ALL = "one-for-all"
    """All members are restarted: stopped in reverse order, then started in order."""
    REST_FOR_ONE = "rest-for-one"
    """The failed member and those listed after it are restarted."""


@attrs.frozen
class GroupConfig:
    """A group of plugins and other groups; all instances of a member are restarted with it."""

    name: str = attrs.field(validator=check_name)
    """Name of the group, with the syntax of plugin names; no plugin may have it too."""
    members: tuple[str, ...] = attrs.field(
        converter=to_strings, validator=require(len, "must name at least one plugin or group")
    )
    """Names of plugins and groups, in order; each may be in at most one group."""
    strategy: Strategy = Strategy.ONE_FOR_ONE
    """Which members are restarted with one that failed: none, all, or those listed after it. They
    are stopped in reverse of `depends_on`, and none is started before all have stopped."""
    max_restarts: int = attrs.field(default=3, validator=at_least(0))
    """Number of restarts of the group within `restart_period`; at the next failure of a member the
    group fails too."""
    restart_period: float = attrs.field(default=60.0, validator=is_positive)
    """Seconds within which `max_restarts` are counted."""
    escalate: EscalationScope = attrs.field(
        default=EscalationScope.GROUP,
        validator=require(
            lambda to: to is not EscalationScope.PLUGIN,
            'must be "group" (the one around it) or "mesh"',
        ),
    )
    """Where its failure is escalated: to the group around it, or to the mesh, as it is in any case
    without a group around it."""
    depends_on: tuple[Dependency, ...] = attrs.field(default=(), converter=to_dependencies)
    """What has to be ready, or have completed, before any member is started; as of a plugin."""


class Topology:
    """The graph of a mesh's plugins, groups and tasks: membership and dependencies.

    The other methods require that `validate` returns no errors.
    """

    def __init__(
        self,
        plugins: Sequence[PluginConfig],
        groups: Sequence[GroupConfig],
        tasks: Sequence[TaskConfig] = (),
    ) -> None:
        self._plugins = {plugin.name: plugin for plugin in plugins}
        self._groups = {group.name: group for group in groups}
        self._tasks = {task.name: task for task in tasks}
        self._parent = {member: group for group in groups for member in group.members}

    def group_of(self, name: str) -> GroupConfig | None:
        """Return the group of which a plugin or group is a direct member; None without one."""
        return self._parent.get(name)

    def plugins_in(self, name: str) -> tuple[str, ...]:
        """Return all plugins below a group, in the order they are listed; for a plugin, itself."""
        group = self._groups.get(name)
        if group is None:
            return (name,)
        return tuple(plugin for member in group.members for plugin in self.plugins_in(member))

    def group_path(self, name: str) -> tuple[str, ...]:
        """Return a plugin or group and the groups around it, innermost first."""
        group = self._parent.get(name)
        return (name,) if group is None else (name, *self.group_path(group.name))

    def dependencies(self) -> Dependencies:
        """Return what each plugin and task waits for to be ready, by its groups too."""
        return self._find_dependencies(DependencyCondition.READY)

    def completions(self) -> Dependencies:
        """Return what each plugin and task waits for to have completed, by its groups too."""
        return self._find_dependencies(DependencyCondition.COMPLETED)

    def _find_dependencies(self, condition: DependencyCondition) -> Dependencies:
        return {
            name: frozenset(
                needed
                for above in self.group_path(name)
                for dependency in self._table(above).depends_on
                if dependency.condition is condition
                for needed in self.plugins_in(dependency.name)
            )
            for name in (*self._plugins, *self._tasks)
        }

    def _table(self, name: str) -> PluginConfig | GroupConfig | TaskConfig:
        return self._groups.get(name) or self._plugins.get(name) or self._tasks[name]

    # -- validation --------------------------------------------------------------------------

    def validate(self) -> list[str]:
        """Return every error, as "key: reason"."""
        both = (name for name in self._groups if name in self._plugins)
        found = [f"group {name!r}: a plugin has this name too" for name in both]
        for kind, others in (("plugin", self._plugins), ("group", self._groups)):
            both = (name for name in self._tasks if name in others)
            found += [f"task {name!r}: a {kind} has this name too" for name in both]
        found += self._member_errors()
        found += self._unknown_dependency_errors()
        # Each check requires that those before it have found nothing.
        if found or (found := self._nesting_errors()):
            return found
        if found := list(self._completion_errors()):
            return found
        ready, completed = self.dependencies(), self.completions()
        edges = {name: ready[name] | completed[name] for name in ready}
        return _cycle_errors(self._kind, "depends_on: dependency cycle", edges)

    def _kind(self, name: str) -> str:
        return "task" if name in self._tasks else "plugin"

    def _member_errors(self) -> Iterator[str]:
        seen: dict[str, str] = {}
        for group in self._groups.values():
            for member in group.members:
                location = f"group {group.name!r}: members"
                if member in self._tasks:
                    yield f"{location}: {member!r} is a task; only plugins and groups are members"
                elif member not in self._plugins and member not in self._groups:
                    yield f"{location}: {member!r} is neither a plugin nor a group"
                elif member in seen:
                    yield f"{location}: {member!r} is in group {seen[member]!r} already"
                seen.setdefault(member, group.name)

    def _all_dependencies(self) -> Iterator[tuple[str, Dependency]]:
        """Yield each dependency with the beginning of an error about it."""
        tables: list[tuple[str, PluginConfig | GroupConfig | TaskConfig]]
        tables = [("plugin", self._plugins[name]) for name in self._plugins]
        tables += [("group", self._groups[name]) for name in self._groups]
        tables += [("task", self._tasks[name]) for name in self._tasks]
        for kind, table in tables:
            for dependency in table.depends_on:
                yield f"{kind} {table.name!r}: depends_on", dependency

    def _unknown_dependency_errors(self) -> Iterator[str]:
        for location, dependency in self._all_dependencies():
            name = dependency.name
            if name in self._tasks and dependency.condition is DependencyCondition.READY:
                yield (
                    f"{location}: {name!r} is a task, which is never ready; write "
                    f'{{ {name} = "completed" }}'
                )
            elif not any(name in each for each in (self._plugins, self._groups, self._tasks)):
                known = "neither a plugin nor a group"
                known = "no plugin, group or task" if self._tasks else known
                yield f"{location}: {name!r} is {known}"

    def _completion_errors(self) -> Iterator[str]:
        for location, dependency in self._all_dependencies():
            if dependency.condition is DependencyCondition.COMPLETED:
                for name in self.plugins_in(dependency.name):
                    if problem := self._explain_never_completed(name):
                        yield f"{location}: {name!r} {problem}"

    def _explain_never_completed(self, name: str) -> str:
        """Explain why a plugin or task never completes; "" if it may."""
        if name in self._tasks:
            has_schedule = self._tasks[name].schedule is not None
            text = "has a schedule, and so never has completed; depend on a task without one"
            return text if has_schedule else ""
        if self._plugins[name].start.is_on_demand:
            return "is started on demand again whenever it has ended, and so never completes"
        is_restarted = self._plugins[name].restart is RestartPolicy.ALWAYS
        text = 'is always restarted, and so never completes; set its restart to "never" or'
        return f'{text} "on-failure"' if is_restarted else ""

    def _nesting_errors(self) -> list[str]:
        nested = {
            name: frozenset(member for member in group.members if member in self._groups)
            for name, group in self._groups.items()
        }
        return _cycle_errors(lambda _: "group", "members: cycle of groups", nested)


def _cycle_errors(kind: Callable[[str], str], text: str, edges: Dependencies) -> list[str]:
    """Return an error with the names of a cycle in order; [] if there is none."""
    sorter = TopologicalSorter({name: sorted(edges[name]) for name in edges})
    try:
        sorter.prepare()
    except CycleError as exc:
        # graphlib lists each node after one that it precedes, here: after one that waits for it.
        cycle: list[str] = exc.args[1][::-1]
        return [f"{kind(cycle[0])} {cycle[0]!r}: {text}: {' → '.join(cycle)}"]
    return []
