"""The services that a config declares, in the registry."""

from __future__ import annotations

from meshtrio.config import MeshConfig
from meshtrio.discovery import static
from meshtrio.discovery.registry import Registry


def add_declared_services(registry: Registry, before: MeshConfig, config: MeshConfig) -> None:
    """Have the services of `config` in the registry; `before` is the config until now."""
    registry.explain_missing(_explain_missing_services(config))
    for service in sorted(_declared_services(config)):
        registry.add_service(service)
    static.apply_service_tables(registry, before.services, config.services)


def remove_undeclared_services(registry: Registry, before: MeshConfig, config: MeshConfig) -> None:
    """Remove the services of `before` that `config` does not have."""
    for service in _declared_services(before) - _declared_services(config):
        registry.remove_service(service)


def _declared_services(config: MeshConfig) -> set[str]:
    """Return the services of the plugins and the tables of a config."""
    plugins = {plugin.service_name for plugin in config.plugins if plugin.has_service}
    return plugins | {each.name for each in config.services}


def _explain_missing_services(config: MeshConfig) -> dict[str, str]:
    """Return what callers of the plugins without a service are told, by the name of that."""
    return {
        plugin.service_name: f"plugin {plugin.name} has no service: its config has "
        "`service = false`, or no `service = true` and a `ready` that does not imply it"
        for plugin in config.plugins
        if not plugin.has_service
    }
