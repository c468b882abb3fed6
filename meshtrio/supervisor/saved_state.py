"""What a mesh hands over to itself, of its supervisor, when it executes its new code.

See `process.saved_processes` for its processes, and for the clock of times.
"""

from __future__ import annotations

from collections.abc import Mapping

import attrs

from meshtrio.config import MeshConfig
from meshtrio.discovery.endpoint import ExitInfo
from meshtrio.supervisor.process.saved_processes import SavedProcesses
from meshtrio.supervisor.saved_instance import SavedInstance
from meshtrio.supervisor.tasks.saved_task import SavedTask


@attrs.frozen(kw_only=True)
class SavedService:
    """How earlier endpoints of a service have ended."""

    name: str
    exit_infos: tuple[ExitInfo, ...]


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
