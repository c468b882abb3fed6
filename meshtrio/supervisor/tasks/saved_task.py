"""What an upgrade hands over of a task."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import attrs

from meshtrio.supervisor.policy.restart import Exit
from meshtrio.supervisor.process.cleanup.leftover_killer import UnkillableProcess
from meshtrio.supervisor.process.saved_processes import from_monotonic, to_monotonic
from meshtrio.supervisor.tasks.schedule_cursor import ScheduleCursor
from meshtrio.supervisor.tasks.state import TaskOutcome, TaskState
from meshtrio.supervisor.tasks.task import Task, TaskResult


@attrs.frozen(kw_only=True)
class SavedTask:
    """A task without a process. Unix times are those of the wall clock."""

    name: str
    state: TaskState
    attempts: int = 0
    start_at: float
    handled_until: float | None = None
    """Unix time up to which the runs of its schedule are handled; None if it has none."""
    has_completed: bool = False
    last_result: TaskResult | None = None
    last_exit: Exit | None = None
    last_ended_at: float | None = None
    last_success_at: float | None = None
    missed: int = 0
    outcomes: Mapping[str, int] = attrs.field(factory=dict)
    unkillable: tuple[UnkillableProcess, ...] = ()


def save_task(task: Task) -> SavedTask:
    """Return what an upgrade hands over of a task without a process."""
    return SavedTask(
        name=task.name,
        state=task.state,
        attempts=task.attempts,
        start_at=to_monotonic(task.start_at),
        handled_until=None if task.cursor is None else task.cursor.handled_until,
        has_completed=task.has_completed,
        last_result=task.last_result,
        last_exit=task.last_exit,
        last_ended_at=task.last_ended_at,
        last_success_at=task.last_success_at,
        missed=task.missed,
        outcomes={outcome.value: count for outcome, count in task.outcomes.items()},
        unkillable=task.unkillable,
    )


def adopt_task(task: Task, saved: SavedTask) -> None:
    """Have a task go on as it was."""
    task.state, task.attempts = saved.state, saved.attempts
    task.start_at = from_monotonic(saved.start_at)
    schedule = task.config.times()
    if schedule is not None and saved.handled_until is not None:
        task.cursor = ScheduleCursor(schedule, saved.handled_until)
    task.has_completed, task.last_result = saved.has_completed, saved.last_result
    task.last_exit, task.last_ended_at = saved.last_exit, saved.last_ended_at
    task.last_success_at, task.missed = saved.last_success_at, saved.missed
    task.outcomes = Counter({TaskOutcome(name): count for name, count in saved.outcomes.items()})
    task.unkillable = saved.unkillable
