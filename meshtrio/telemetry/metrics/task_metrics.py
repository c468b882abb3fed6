"""Metrics of tasks: their runs, and what a monitor has to know of the last one."""

from __future__ import annotations

from collections.abc import Iterable

from meshtrio.supervisor.tasks.state import TaskOutcome, TaskState
from meshtrio.supervisor.tasks.task import Task
from meshtrio.telemetry.metric_families import Labels, MetricFamily


def collect_task_metrics(tasks: Iterable[Task]) -> list[MetricFamily]:
    """Return the families of the tasks, as of now; none without a task."""
    by_labels: dict[Labels, Task] = {(("task", task.name),): task for task in tasks}
    if not by_labels:
        return []
    runs = MetricFamily.counter("mesh.task.runs", "{run}", "Runs of the task that have ended.")
    states = MetricFamily.gauge(
        "mesh.task.state", "", "1 for the current state of a task, 0 for the others."
    )
    for labels, task in by_labels.items():
        for outcome in TaskOutcome:
            runs.add((*labels, ("outcome", outcome.value)), task.outcomes[outcome])
        for state in TaskState:
            states.add((*labels, ("state", state.value)), float(task.state is state))
    missed = {labels: task.missed for labels, task in by_labels.items()}
    text = "Runs of the schedule that were left out."
    duration, text_of_duration = "mesh.task.last.duration", "Duration of the last run."
    durations = {
        labels: task.last_result.duration
        for labels, task in by_labels.items()
        if task.last_result is not None
    }
    success = "mesh.task.last.success.timestamp"
    text_of_success = "Unix time at which the last run that succeeded ended."
    successes = {
        labels: task.last_success_at
        for labels, task in by_labels.items()
        if task.last_success_at is not None
    }
    return [
        runs,
        states,
        MetricFamily.counter("mesh.task.missed.runs", "{run}", text, missed),
        MetricFamily.gauge(duration, "s", text_of_duration, durations),
        MetricFamily.gauge(success, "s", text_of_success, successes),
    ]
