"""Which plugins and instances the name in a request stands for."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from meshtrio.config import PluginConfig
from meshtrio.supervisor.instance import Instance
from meshtrio.supervisor.supervisor import Supervisor
from meshtrio.util.errors import UnknownNameError, UsageError


class NameResolver:
    """Finds plugins and instances by the names of plugins, of their services or of groups."""

    def __init__(self, supervisor: Supervisor) -> None:
        self._supervisor = supervisor

    def find_plugin(self, name: str) -> PluginConfig:
        """Find a plugin by its name or that of its service.

        Raises:
            UnknownNameError: There is none.
            UsageError: It is the name of a task.
        """
        for plugin in self._supervisor.config.plugins:
            if name in (plugin.name, plugin.service_name):
                return plugin
        if name in self._supervisor.tasks.tasks:
            raise UsageError(f"{name} is a task; `meshtrio run {name}` runs it")
        known = ", ".join(plugin.name for plugin in self._supervisor.config.plugins) or "none"
        raise UnknownNameError(f"there is no plugin {name!r}; the plugins are: {known}")

    def find_plugin_names(self, name: str) -> frozenset[str]:
        """Find the names of the plugins in a group, or of one plugin; raises as `find_plugin`."""
        config = self._supervisor.config
        if any(group.name == name for group in config.groups):
            return frozenset(config.topology().plugins_in(name))
        return frozenset([self.find_plugin(name).name])

    def find_instances(self, name: str) -> list[Instance]:
        """Find the instances of a plugin, or of a group's plugins; raises as `find_plugin`."""
        return self._supervisor.instances_of(self.find_plugin_names(name))

    def find_instance(self, name: str, number: int) -> Instance:
        """Find one instance of a plugin; raises as `find_plugin`, also for another number."""
        plugin = self.find_plugin(name).name
        found = self._supervisor.instances_of([plugin])
        for instance in found:
            if instance.number == number:
                return instance
        text = f"has no instance {number}; it has {len(found)} of them, numbered from 0"
        raise UnknownNameError(f"{plugin} {text}")

    def make_filter(self, names: Iterable[str], *, accept_tasks: bool) -> Callable[[str], bool]:
        """Make a predicate of the names of plugins and tasks; see `Operations.make_filter`."""
        names = set(names)  # A client may repeat a name a million times.
        if not names:
            return lambda _: True
        tasks = self._supervisor.tasks.tasks
        selected = frozenset(
            found
            for name in names
            for found in (
                (name,) if accept_tasks and name in tasks else self.find_plugin_names(name)
            )
        )
        return selected.__contains__
