"""The gRPC services that a mesh's config lists for plugins and other services."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping

from meshtrio.config import MeshConfig
from meshtrio.supervisor.supervisor import Supervisor


class ConfiguredServices:
    """The gRPC services that the config lists, by service of the mesh."""

    def __init__(self, supervisor: Supervisor) -> None:
        self._supervisor = supervisor
        self._config: MeshConfig | None = None
        """The config that `_services` is from."""
        self._services: Mapping[str, Iterable[str]] = {}

    def get(self) -> Mapping[str, Iterable[str]]:
        """Return the services of the current config; the same object while it is the same."""
        config = self._supervisor.config
        if config is not self._config:
            self._config, self._services = config, _list_grpc_services(config)
        return self._services


def _list_grpc_services(config: MeshConfig) -> Mapping[str, Iterable[str]]:
    services: defaultdict[str, set[str]] = defaultdict(set)
    for plugin in config.plugins:
        if plugin.has_service:
            services[plugin.service_name].update(plugin.services)
    for table in config.services:
        services[table.name].update(table.services)
    return services
