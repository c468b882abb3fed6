"""The table of a supervisor's instances."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

from meshtrio.config import MeshConfig
from meshtrio.supervisor.instance import Instance


class InstanceTable:
    """The instances of all plugins; the supervisor loop and operations change it."""

    def __init__(self, config: MeshConfig) -> None:
        """Create a table with the instances that the plugins of a config have at first."""
        self.instances = [
            Instance(plugin, number)
            for plugin in config.plugins
            for number in range(plugin.instances)
        ]
        """The instances, in the order of the config; replaced by another list if some are removed.
        """

    def select(self, plugins: Iterable[str]) -> list[Instance]:
        """Return the instances of some plugins, in the order of the config."""
        wanted = frozenset(plugins)
        return [instance for instance in self.instances if instance.plugin in wanted]

    def by_plugin(self) -> Mapping[str, Sequence[Instance]]:
        """Return the instances by the names of their plugins."""
        found: defaultdict[str, list[Instance]] = defaultdict(list)
        for instance in self.instances:
            found[instance.plugin].append(instance)
        return found

    def add(self, instances: Iterable[Instance], config: MeshConfig) -> None:
        """Add instances of plugins that are in `config`, which has the order."""
        order = {plugin.name: place for place, plugin in enumerate(config.plugins)}
        self.instances += instances
        self.instances.sort(key=lambda instance: (order[instance.plugin], instance.number))

    def remove(self, instances: Iterable[Instance]) -> None:
        """Remove instances that have no process."""
        removed = set(instances)
        for instance in removed:
            if instance.demand_watch is not None:
                instance.demand_watch.cancel()
            instance.close_unused_sockets()
        self.instances = [instance for instance in self.instances if instance not in removed]
