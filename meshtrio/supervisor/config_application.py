"""Applies a config to what there is: the system and the instances."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable

from meshtrio.config import MeshConfig
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
