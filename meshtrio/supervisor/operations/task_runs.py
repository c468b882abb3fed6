"""Runs of tasks on request, and stops of tasks."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from meshtrio.config import MeshConfig
from meshtrio.supervisor.operations.progress import OperationProgress
from meshtrio.supervisor.operations.results import DrainResult
from meshtrio.supervisor.supervisor import Supervisor
from meshtrio.supervisor.tasks.task import Task, TaskResult
from meshtrio.util.errors import UnknownNameError, UsageError


async def run_task(
    supervisor: Supervisor,
    progress: OperationProgress,
    name: str,
    on_data: Callable[[str, bytes], None] | None,
) -> TaskResult:
    """Run a task now, and wait for its end; see `Operations.run_task`."""
    if failure := supervisor.explain_dependencies().explain_failure(name):
        raise UsageError(f"task {name} {failure}")
    supervisor.check_not_stopping()
    progress.check_not_upgrading()

    def find_failure() -> str:
        task = supervisor.tasks.tasks.get(name)
        if task is None or not task.is_waiting:
            return ""
        return supervisor.explain_dependencies().explain_failure(name)

    request = supervisor.tasks.request_run(name, on_data)
    try:
        await supervisor.wait_until(lambda: request.result is not None or bool(find_failure()))
        if request.result is None:
            raise UsageError(f"task {name} {find_failure()}")
    finally:
        supervisor.tasks.cancel(name, request)
    return request.result


def make_unknown_task_error(name: str, config: MeshConfig) -> Exception:
    """Make the error to raise for a name that is not that of a task."""
    if name in (*(each.name for each in config.plugins), *(g.name for g in config.groups)):
        return UsageError(f"{name} is not a task; `meshtrio start {name}` starts it")
    known = ", ".join(task.name for task in config.tasks) or "none"
    return UnknownNameError(f"there is no task {name!r}; the tasks are: {known}")


async def stop_task(supervisor: Supervisor, task: Task) -> DrainResult:
    """Stop the present run of a task, and return how that ended."""
    run = task.run
    task.request_stop()
    await supervisor.wait_until(lambda: not task.is_running)
    killed = run is not None and run.was_killed
    return DrainResult(task.name, 0, None if run is None else run.exit, killed)


async def stop_tasks(supervisor: Supervisor, tasks: Sequence[Task]) -> None:
    """Stop tasks, and those again that are due meanwhile, until none of them runs."""
    while any(task.is_running or task.is_waiting for task in tasks):
        for task in tasks:
            task.request_stop()
        await supervisor.wait_until(lambda: not any(task.is_running for task in tasks))
