"""Metrics of tasks."""

from __future__ import annotations

from trio.testing import MockClock

from meshtrio.telemetry.metrics.task_metrics import collect_task_metrics
from tests.support.fake_processes import ProcessScript, make_supervisor, make_task_config


async def test_runs_and_the_last_of_them_are_counted(autojump_clock: MockClock) -> None:
    scripts = {
        "t": [ProcessScript(lifetime=2, exit_status=0), ProcessScript(lifetime=3)],
        "scheduled": [ProcessScript(lifetime=90)],
    }
    tasks = [
        make_task_config("t"),
        make_task_config("scheduled", schedule="* * * * *", timezone="UTC"),
    ]
    async with make_supervisor([], scripts, tasks=tasks, unix_time=6000) as harness:
        await harness.run_until(10)
        await harness.operations.run_task("t")
        await harness.run_until(130)
        families = collect_task_metrics(harness.supervisor.tasks.tasks.values())
        found = {
            (family.name, *(value for _, value in point.labels)): point.value
            for family in families
            for point in family.points
            if point.value
        }
        assert found == {
            ("mesh.task.runs", "t", "completed"): 1,
            ("mesh.task.runs", "t", "failed"): 1,
            ("mesh.task.state", "t", "failed"): 1,
            ("mesh.task.state", "scheduled", "running"): 1,
            ("mesh.task.missed.runs", "scheduled"): 1,
            ("mesh.task.last.duration", "t"): 3,
            ("mesh.task.last.success.timestamp", "t"): 6002,
        }


async def test_a_mesh_without_tasks_has_no_such_metrics(autojump_clock: MockClock) -> None:
    async with make_supervisor([]) as harness:
        assert collect_task_metrics(harness.supervisor.tasks.tasks.values()) == []
