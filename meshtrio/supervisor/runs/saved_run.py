"""What an upgrade hands over of a process run."""

from __future__ import annotations

from pathlib import Path

import attrs

from meshtrio.config import PluginConfig
from meshtrio.supervisor.effects import Effects
from meshtrio.supervisor.policy.state import InstanceState
from meshtrio.supervisor.process.cleanup.leftover_killer import RunIdentity
from meshtrio.supervisor.process.saved_processes import SavedProcess, from_monotonic, to_monotonic
from meshtrio.supervisor.process.spawn.plugin_process import PluginProcess
from meshtrio.supervisor.readiness.notify_channel import SavedChannel
from meshtrio.supervisor.runs.process_run import ProcessRun
from meshtrio.util.log_level import LogLevel

_STEADY_STATES = (InstanceState.STARTING, InstanceState.READY, InstanceState.UNREADY)
"""The states in which a run can be handed over."""


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


def is_steady(run: ProcessRun) -> bool:
    """Return whether the process of a run is neither being started nor ended, so that it can be
    handed over."""
    if run.state not in _STEADY_STATES or run.is_stop_requested or run.is_kill_requested:
        return False
    if run.ready_at is None and run.channels.pipe is not None:
        return False  # It is to write to a pipe, which is not handed over.
    is_supervised = run.supervision is not None and run.output_reader.is_reading
    return run.process is not None and is_supervised and not run.process.leader_exited.is_set()


def save_run(run: ProcessRun, effects: Effects) -> SavedRun:
    """Return what is handed over of a run that is steady."""
    process, identity, notify = run.process, run.identity, run.channels.notify
    availability, reader = run.availability, run.output_reader
    assert process is not None
    assert identity is not None
    assert run.supervision is not None
    return SavedRun(
        config=run.config,
        slot=run.spec.slot,
        launch_id=run.launch_id,
        socket=run.socket,
        state=run.state,
        process=process.save(*reader.save()),
        started_at=to_monotonic(availability.started_at),
        ready_at=None if run.ready_at is None else to_monotonic(run.ready_at),
        started_ticks=identity.started_ticks,
        marker_limit=effects.get_marker_limit(run.launch_id),
        notifications=None if notify is None else notify.save(),
        uids=None if run.uids is None else tuple(run.uids),
        server_uid=run.supervision.verifier.uid,
        times_ready=availability.registration.times_ready,
        rss=run.rss,
        max_age_factor=run.max_age_factor,
        applied_log_level=run.applied_log_level,
        cut_calls=tuple(reader.cut_calls),
        has_drain_report=reader.has_drain_report,
        stderr_lines=reader.stderr_lines,
    )


def adopt_run(run: ProcessRun, saved: SavedRun, effects: Effects) -> None:
    """Have a new run take over the process that the mesh had before the upgrade."""
    availability, reader = run.availability, run.output_reader
    availability.state = saved.state
    availability.started_at = from_monotonic(saved.started_at)
    availability.ready_at = None if saved.ready_at is None else from_monotonic(saved.ready_at)
    run.process = PluginProcess.adopt(saved.process)
    run.identity = RunIdentity(run.launch_id, saved.started_ticks, saved.process.pid)
    run.rss, run.max_age_factor = saved.rss, saved.max_age_factor
    run.applied_log_level = saved.applied_log_level
    run.uids = None if saved.uids is None else frozenset(saved.uids)
    run.server_uid = saved.server_uid
    run.saved_channel = saved.notifications
    reader.adopt(saved.process, saved.stderr_lines)
    reader.cut_calls.extend(saved.cut_calls)
    reader.has_drain_report = saved.has_drain_report
    effects.adopt_marker_limit(run.launch_id, saved.marker_limit)
    availability.registration.pid = saved.process.pid
    availability.registration.times_ready = saved.times_ready
    if run.is_ready:
        availability.registration.adopt(saved.server_uid)
