"""The gRPC services that a config lists for the services of its mesh."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping

from meshtrio.config import MeshConfig


class ConfiguredServices:
    """Returns the gRPC services that the config lists by service of the mesh.

    The same object is returned while the config is the same.
    """

    def __init__(self, get_config: Callable[[], MeshConfig]) -> None:
        self._get_config = get_config
        self._config: MeshConfig | None = None
        self._services: Mapping[str, Iterable[str]] = {}

    def __call__(self) -> Mapping[str, Iterable[str]]:
        config = self._get_config()
        if config is not self._config:
            self._config = config
            services: defaultdict[str, set[str]] = defaultdict(set)
            for plugin in config.plugins:
                services[plugin.service].update(plugin.services)
            for table in config.services:
                services[table.name].update(table.services)
            self._services = services
        return self._services
