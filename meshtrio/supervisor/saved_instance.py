"""What an upgrade hands over of an instance."""

from __future__ import annotations

import attrs

from meshtrio.supervisor.effects import Effects
from meshtrio.supervisor.instance import Instance
from meshtrio.supervisor.policy.restart import Exit, RestartHistory
from meshtrio.supervisor.policy.state import InstancePhase
from meshtrio.supervisor.process.cleanup.leftover_killer import UnkillableProcess
from meshtrio.supervisor.process.saved_processes import from_monotonic, to_monotonic
from meshtrio.supervisor.runs.saved_run import SavedRun, is_steady, save_run


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


def find_instance_obstacle(instance: Instance) -> str:
    """Return why an instance cannot be handed over, as what is being done to it; "" if it can.

    It can if no run is being started, replaced or ended, and no other process is in its place.
    """
    if instance.attachment is not None:
        return str(instance.attachment)
    if instance.phase.is_leaving or instance.draining_runs:
        return "being stopped"
    if instance.replacement_run is not None:
        return "being replaced"
    if instance.active_run is None or is_steady(instance.active_run):
        return ""
    return "being started" if instance.is_starting else "ending"


def save_instance(instance: Instance, effects: Effects) -> SavedInstance:
    """Return what is handed over of an instance, which has no obstacle."""
    # The recycler requests a replacement again; an operation would be in progress.
    is_queued = instance.phase is InstancePhase.REPLACE_QUEUED
    recent = tuple(map(to_monotonic, instance.history.recent_restarts))
    return SavedInstance(
        plugin=instance.plugin,
        number=instance.number,
        phase=InstancePhase.RUNNING if is_queued else instance.phase,
        slot=instance.slot,
        run=None if instance.active_run is None else save_run(instance.active_run, effects),
        history=attrs.evolve(instance.history, recent_restarts=recent),
        start_at=to_monotonic(instance.start_at),
        batch=instance.batch,
        failed_starts=instance.failed_starts,
        is_demanded=instance.is_demanded,
        last_exit=instance.last_exit,
        exit_reason=instance.exit_reason,
        unkillable=instance.unkillable,
        replace_failures=instance.replace_failures,
        next_replace_at=to_monotonic(instance.next_replace_at),
        lines=instance.line_buffer.save(),
    )


def adopt_instance(instance: Instance, saved: SavedInstance) -> None:
    """Make an instance what it was before the upgrade, except for its run."""
    instance.phase, instance.slot, instance.batch = saved.phase, saved.slot, saved.batch
    recent = tuple(map(from_monotonic, saved.history.recent_restarts))
    instance.history = attrs.evolve(saved.history, recent_restarts=recent)
    instance.start_at = from_monotonic(saved.start_at)
    instance.next_replace_at = from_monotonic(saved.next_replace_at)
    instance.replace_failures = saved.replace_failures
    instance.failed_starts = saved.failed_starts
    instance.is_demanded = saved.is_demanded
    instance.last_exit, instance.exit_reason = saved.last_exit, saved.exit_reason
    instance.unkillable = saved.unkillable
    instance.line_buffer.adopt(saved.lines, instance.config.output.kept)
