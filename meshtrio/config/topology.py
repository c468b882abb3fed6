"""How plugins and groups hang together: members, order, and what cannot be. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from meshtrio.config.group import GroupConfig
from meshtrio.config.plugin import PluginConfig

Dependencies = Mapping[str, frozenset[str]]
"""By plugin: those that have to be ready before it is started."""


class Topology:
    """The groups of a mesh, and the order they and `depends_on` put plugins in.

    What `problems` finds wrong must be mended before the rest is asked.
    """

    def __init__(self, plugins: Sequence[PluginConfig], groups: Sequence[GroupConfig]) -> None:
        self._plugins = {plugin.name: plugin for plugin in plugins}
        self._groups = {group.name: group for group in groups}
        self._parent = {member: group for group in groups for member in group.members}

    def group_of(self, name: str) -> GroupConfig | None:
        """The group that a plugin or group is a member of."""
        return self._parent.get(name)

    def plugins_in(self, name: str) -> tuple[str, ...]:
        """The plugins below a group in the order they are listed; of a plugin, itself."""
        group = self._groups.get(name)
        if group is None:
            return (name,)
        return tuple(plugin for member in group.members for plugin in self.plugins_in(member))

    def group_path(self, name: str) -> tuple[str, ...]:
        """A plugin or group and the groups above it, innermost first."""
        group = self._parent.get(name)
        return (name,) if group is None else (name, *self.group_path(group.name))

    def dependencies(self) -> Dependencies:
        """What each plugin waits for: its own `depends_on`, and that of the groups it is in."""
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

    # -- what is wrong -----------------------------------------------------------------------

    def validate(self) -> list[str]:
        """Every mistake, as "key: reason"."""
        found = [f"group {name!r}: a plugin has this name, too" for name in self._ambiguous_names()]
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
        circle = find_cycle(edges)
        if circle:
            yield f"group {circle[0]!r}: members: a group is inside itself: {_format_cycle(circle)}"

    def _cycle_errors(self) -> Iterator[str]:
        circle = find_cycle(self.dependencies())
        if circle:
            path = _format_cycle(circle)
            yield f"plugin {circle[0]!r}: depends_on: each waits for the next: {path}"


def _format_cycle(cycle: Iterable[str]) -> str:
    return " → ".join(cycle)


def find_cycle(edges: Dependencies) -> tuple[str, ...]:
    """A circle as its names in order, the first again at the end; () where there is none."""
    done: set[str] = set()

    def walk(name: str, path: tuple[str, ...]) -> tuple[str, ...]:
        if name in path:
            return (*path[path.index(name) :], name)
        if name not in done:
            for following in sorted(edges.get(name, ())):
                circle = walk(following, (*path, name))
                if circle:
                    return circle
            done.add(name)
        return ()

    for name in edges:
        circle = walk(name, ())
        if circle:
            return circle
    return ()
