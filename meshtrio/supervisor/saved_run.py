"""What an upgrade hands over of a process run."""

from __future__ import annotations

from pathlib import Path

import attrs

from meshtrio.config import PluginConfig
from meshtrio.supervisor.policy.state import InstanceState
from meshtrio.supervisor.process.saved_processes import SavedProcess
from meshtrio.supervisor.readiness.notify_channel import SavedChannel
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
