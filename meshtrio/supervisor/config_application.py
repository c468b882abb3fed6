"""Applies a config to what there is: the system, the instances and the registry."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable

from meshtrio.config import MeshConfig
from meshtrio.discovery import static
from meshtrio.discovery.registry import Registry
from meshtrio.runtime_dir import directory as runtime_dir
from meshtrio.supervisor import events
from meshtrio.supervisor.effects import Effects
from meshtrio.supervisor.instance import Instance

_log = logging.getLogger("meshtrio.mesh")


def configure_effects(effects: Effects, config: MeshConfig) -> None:
    """Record the users of plugins for the next mesh, and keep only templates that are used."""
    try:
        effects.guard.set_users(runtime_dir.resolve_plugin_uids(config))
    except OSError as exc:
        _log.error(
            "cannot record the users of plugins in the runtime dir: %s; should this mesh and "
            "its warden be killed, the next mesh there leaves their processes alone",
            exc.strerror,
        )
    if effects.templates is not None:
        effects.templates.retain([each.name for each in config.plugins if each.start.forks])


def configure_instances(
    instances: Iterable[Instance],
    config: MeshConfig,
    registry: Registry,
    emit: Callable[..., None],
) -> None:
    """Have instances use the configs of their plugins; those without one keep theirs.

    Args:
        instances: All instances.
        config: The config of the mesh.
        registry: Gets the services that calls do not start any more.
        emit: Called as `emit(instance, kind, **values)` for events.
    """
    by_name = {plugin.name: plugin for plugin in config.plugins}
    for instance in instances:
        old_level = instance.config.output.log_level
        instance.apply_config(by_name.get(instance.plugin, instance.config))
        level = instance.config.output.log_level
        if level is not old_level:
            emit(instance, events.LogLevelSet, level=level)
        if instance.config.has_service and not instance.config.start.is_on_demand:
            registry.set_on_demand(instance.config.service_name, on_demand=False)


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
