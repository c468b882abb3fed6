"""What a mesh hands over to itself, of its supervisor, when it executes its new code.

See `process.saved_processes` for its processes, and for the clock of times.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import attrs

from meshtrio.config import MeshConfig, PluginConfig
from meshtrio.discovery.endpoint import ExitInfo
from meshtrio.supervisor.policy.restart import Exit, RestartHistory
from meshtrio.supervisor.policy.state import InstancePhase, InstanceState
from meshtrio.supervisor.process.cleanup.leftover_killer import UnkillableProcess
from meshtrio.supervisor.process.saved_processes import SavedProcess, SavedProcesses
from meshtrio.supervisor.readiness.notify_channel import SavedChannel
from meshtrio.supervisor.tasks.saved_task import SavedTask
from meshtrio.util.log_level import LogLevel


@attrs.frozen(kw_only=True)
class SavedRun:
    """A process run that has a process."""

    config: PluginConfig
    """The config that the process was started with."""
    slot: int
    launch_id: str
    socket: Path
    state: InstanceState
    process: SavedProcess
    started_at: float
    ready_at: float | None = None
    started_ticks: float
    """`RunIdentity.started_ticks`."""
    marker_limit: int
    """The soft limit that marks its processes."""
    notifications: SavedChannel | None = None
    """The socket on which it reports, and what it has reported, if it does."""
    uids: tuple[int, ...] | None = None
    """The users of which its server has to have one; None for any."""
    server_uid: int | None = None
    """The user that its server was found to run as."""
    times_ready: int = 0
    """Number of times that it was registered."""
    rss: int = 0
    max_age_factor: float | None = None
    applied_log_level: LogLevel | None = None
    cut_calls: tuple[str, ...] = ()
    has_drain_report: bool = False
    stderr_lines: tuple[str, ...] = ()


@attrs.frozen(kw_only=True)
class SavedInstance:
    """One instance of a plugin."""

    plugin: str
    number: int
    phase: InstancePhase
    slot: int = 0
    run: SavedRun | None = None
    history: RestartHistory = attrs.field(factory=RestartHistory)
    start_at: float
    batch: int = 0
    failed_starts: int = 0
    is_demanded: bool = False
    last_exit: Exit | None = None
    exit_reason: str = ""
    unkillable: tuple[UnkillableProcess, ...] = ()
    replace_failures: int = 0
    next_replace_at: float
    lines: str = "[]"
    """The last lines of output as JSON, since there may be many: time, pid, stream and text."""


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
