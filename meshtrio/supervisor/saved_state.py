"""What a mesh hands over to itself, of its supervisor, when it executes its new code.

See `process.saved_processes` for its processes, and for the clock of times.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import attrs

from meshtrio.config import MeshConfig
from meshtrio.discovery.endpoint import ExitInfo
from meshtrio.discovery.registry import Registry
from meshtrio.supervisor.process.saved_processes import SavedProcesses
from meshtrio.supervisor.saved_instance import SavedInstance
from meshtrio.supervisor.tasks.saved_task import SavedTask


@attrs.frozen(kw_only=True)
class SavedService:
    """How earlier endpoints of a service have ended."""

    name: str
    exit_infos: tuple[ExitInfo, ...]


def save_services(registry: Registry) -> tuple[SavedService, ...]:
    """Return what is handed over of the registry: exit infos, since endpoints register again."""
    states = {name: registry.resolve(name) for name in registry.services()}
    return tuple(
        SavedService(name=name, exit_infos=state.exit_infos)
        for name, state in states.items()
        if state.exit_infos
    )


def restore_services(registry: Registry, saved: Iterable[SavedService]) -> None:
    """Put the exit infos from before the upgrade into the registry."""
    for service in saved:
        registry.restore_exit_infos(service.name, service.exit_infos)


@attrs.frozen(kw_only=True)
class SavedCounters:
    """The counters of lifecycle events."""

    by_plugin: Mapping[str, Mapping[str, int]] = attrs.field(factory=dict)
    restarts: tuple[tuple[str, int, str, int], ...] = ()
    failed_checks: tuple[tuple[str, int, int], ...] = ()


@attrs.frozen(kw_only=True)
class SavedSupervisor:
    """The supervisor, with all instances."""

    config: MeshConfig
    """The config in force."""
    started_at: float
    processes: SavedProcesses
    instances: tuple[SavedInstance, ...]
    tasks: tuple[SavedTask, ...] = ()
    services: tuple[SavedService, ...] = ()
    group_restarts: Mapping[str, tuple[float, ...]] = attrs.field(factory=dict)
    counters: SavedCounters = attrs.field(factory=SavedCounters)
