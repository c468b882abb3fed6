"""How plugins and groups hang together: members, order, and what cannot be. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from meshtrio.config.group import GroupConfig
from meshtrio.config.plugin import PluginConfig

Edges = Mapping[str, frozenset[str]]
"""By plugin: those that have to be ready before it is started."""


class Relations:
    """The groups of a mesh, and the order they and `after` put plugins in.

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

    def path(self, name: str) -> tuple[str, ...]:
        """A plugin or group and the groups above it, innermost first."""
        group = self._parent.get(name)
        return (name,) if group is None else (name, *self.path(group.name))

    def dependencies(self) -> Edges:
        """What each plugin waits for: its own `after`, and that of the groups it is in."""
        return {
            name: frozenset(
                plugin
                for above in self.path(name)
                for wanted in self._after(above)
                for plugin in self.plugins_in(wanted)
            )
            for name in self._plugins
        }

    def _after(self, name: str) -> tuple[str, ...]:
        found = self._groups.get(name) or self._plugins[name]
        return found.after

    # -- what is wrong -----------------------------------------------------------------------

    def problems(self) -> list[str]:
        """Every mistake, as "key: reason"."""
        found = [f"group {name!r}: a plugin has this name, too" for name in self._both()]
        found += self._member_problems()
        found += self._unknown_after()
        if not found:
            found += self._nesting_problems()
        if not found:
            found += self._order_problems()
        return found

    def _both(self) -> Iterator[str]:
        return (name for name in self._groups if name in self._plugins)

    def _member_problems(self) -> Iterator[str]:
        seen: dict[str, str] = {}
        for group in self._groups.values():
            for member in group.members:
                where = f"group {group.name!r}: members"
                if member not in self._plugins and member not in self._groups:
                    yield f"{where}: {member!r} is neither a plugin nor a group"
                elif member in seen:
                    yield f"{where}: {member!r} is in group {seen[member]!r} already"
                seen.setdefault(member, group.name)

    def _unknown_after(self) -> Iterator[str]:
        for kind, tables in (("plugin", self._plugins), ("group", self._groups)):
            for name, table in tables.items():
                for wanted in table.after:
                    if wanted not in self._plugins and wanted not in self._groups:
                        where = f"{kind} {name!r}: after"
                        yield f"{where}: {wanted!r} is neither a plugin nor a group"

    def _nesting_problems(self) -> Iterator[str]:
        edges = {
            name: frozenset(member for member in group.members if member in self._groups)
            for name, group in self._groups.items()
        }
        circle = find_circle(edges)
        if circle:
            yield f"group {circle[0]!r}: members: a group is inside itself: {_arrows(circle)}"

    def _order_problems(self) -> Iterator[str]:
        circle = find_circle(self.dependencies())
        if circle:
            yield f"plugin {circle[0]!r}: after: each waits for the next: {_arrows(circle)}"


def _arrows(circle: Iterable[str]) -> str:
    return " → ".join(circle)


def find_circle(edges: Edges) -> tuple[str, ...]:
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
