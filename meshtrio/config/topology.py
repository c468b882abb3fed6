"""Membership of plugins in groups, and the order in which plugins are started. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from graphlib import CycleError, TopologicalSorter

from meshtrio.config.group import GroupConfig
from meshtrio.config.plugin import PluginConfig

Dependencies = Mapping[str, frozenset[str]]
"""Maps each plugin to those that have to be ready before it is started."""


class Topology:
    """The graph of a mesh's plugins and groups: membership and dependencies.

    The other methods require that `validate` returns no errors.
    """

    def __init__(self, plugins: Sequence[PluginConfig], groups: Sequence[GroupConfig]) -> None:
        self._plugins = {plugin.name: plugin for plugin in plugins}
        self._groups = {group.name: group for group in groups}
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
        """Return what each plugin waits for: its own `depends_on`, and those of its groups."""
        return {
            name: frozenset(
                plugin
                for above in self.group_path(name)
                for wanted in self._depends_on(above)
                for plugin in self.plugins_in(wanted)
            )
            for name in self._plugins
        }

    def _depends_on(self, name: str) -> tuple[str, ...]:
        found = self._groups.get(name) or self._plugins[name]
        return found.depends_on

    # -- validation --------------------------------------------------------------------------

    def validate(self) -> list[str]:
        """Return every error, as "key: reason"."""
        found = [f"group {name!r}: a plugin has this name too" for name in self._ambiguous_names()]
        found += self._member_errors()
        found += self._unknown_dependency_errors()
        if not found:
            found += self._nesting_errors()
        if not found:
            found += self._cycle_errors()
        return found

    def _ambiguous_names(self) -> Iterator[str]:
        return (name for name in self._groups if name in self._plugins)

    def _member_errors(self) -> Iterator[str]:
        seen: dict[str, str] = {}
        for group in self._groups.values():
            for member in group.members:
                where = f"group {group.name!r}: members"
                if member not in self._plugins and member not in self._groups:
                    yield f"{where}: {member!r} is neither a plugin nor a group"
                elif member in seen:
                    yield f"{where}: {member!r} is in group {seen[member]!r} already"
                seen.setdefault(member, group.name)

    def _unknown_dependency_errors(self) -> Iterator[str]:
        for kind, tables in (("plugin", self._plugins), ("group", self._groups)):
            for name, table in tables.items():
                for wanted in table.depends_on:
                    if wanted not in self._plugins and wanted not in self._groups:
                        where = f"{kind} {name!r}: depends_on"
                        yield f"{where}: {wanted!r} is neither a plugin nor a group"

    def _nesting_errors(self) -> Iterator[str]:
        edges = {
            name: frozenset(member for member in group.members if member in self._groups)
            for name, group in self._groups.items()
        }
        cycle = _find_cycle(edges)
        if cycle:
            yield f"group {cycle[0]!r}: members: a group is inside itself: {_format_cycle(cycle)}"

    def _cycle_errors(self) -> Iterator[str]:
        cycle = _find_cycle(self.dependencies())
        if cycle:
            path = _format_cycle(cycle)
            yield f"plugin {cycle[0]!r}: depends_on: each waits for the next: {path}"


def _format_cycle(cycle: Iterable[str]) -> str:
    return " → ".join(cycle)


def _find_cycle(edges: Dependencies) -> list[str]:
    """Return the names of a cycle in order, its first repeated at the end; [] if there is none."""
    sorter = TopologicalSorter({name: sorted(edges[name]) for name in edges})
    try:
        sorter.prepare()
    except CycleError as exc:
        # graphlib lists each node after one that it precedes, here: after one that waits for it.
        cycle: list[str] = exc.args[1]
        return cycle[::-1]
    return []
