"""Runs the tasks of a mesh: the table of tasks, which the supervisor loop plans."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

import trio

from meshtrio.config import TaskConfig
from meshtrio.supervisor import events
from meshtrio.supervisor.effects import Effects
from meshtrio.supervisor.policy.plan import DependencyStatus, plan_tasks
from meshtrio.supervisor.process.cleanup.leftover_killer import RunIdentity
from meshtrio.supervisor.tasks.run import TaskRun
from meshtrio.supervisor.tasks.saved_task import SavedTask, adopt_task, save_task
from meshtrio.supervisor.tasks.schedule_cursor import MAX_COUNTED_RUNS, ScheduleCursor
from meshtrio.supervisor.tasks.state import TaskState
from meshtrio.supervisor.tasks.task import RunRequest, Task, TaskStatus
from meshtrio.util.errors import UsageError

_CLOCK_INTERVAL = 5.0
"""Maximum seconds between two looks at the wall clock, which may be set at any time."""
_REPORT_INTERVAL = 59.0
"""Minimum seconds between two events of missed runs, of which a schedule may have one a second."""
_OVERLAP_REASON = "the run before was still running"
_CLOCK_REASON = "the machine was asleep, or its clock was set"


class TaskRunner:
    """Owns the tasks of a supervisor."""

    def __init__(
        self,
        effects: Effects,
        mesh_socket: Path,
        *,
        emit: Callable[..., None],
        kill_orphans: Callable[[Any, RunIdentity | None], Awaitable[None]],
        on_change: Callable[[], None],
    ) -> None:
        """Create a runner without tasks.

        Args:
            effects: The system.
            mesh_socket: The mesh's socket, for the processes.
            emit: Called as `emit(task, kind, **values)` for events.
            kill_orphans: Kills the processes that a run of a task has left behind.
            on_change: Called when there may be something to plan.
        """
        self.tasks: dict[str, Task] = {}
        """The tasks by name, in the order of the config."""
        self._effects = effects
        self._mesh_socket = mesh_socket
        self._emit = emit
        self._kill_orphans = kill_orphans
        self._on_change = on_change
        self._ended: deque[Task] = deque()

    # -- configuration -----------------------------------------------------------------------

    def configure(self, configs: Iterable[TaskConfig]) -> None:
        """Use these tasks from now on; those that are removed must not run."""
        before = self.tasks
        self.tasks = {}
        for config in configs:
            task = self.tasks[config.name] = before.get(config.name) or self._make_task(config)
            if task.config != config:
                task.apply_config(config, self._find_cursor(task, config))
        self._on_change()

    def _make_task(self, config: TaskConfig) -> Task:
        cursor = self._make_cursor(config)
        return Task(config, TaskState.PENDING if cursor is None else TaskState.SCHEDULED, cursor)

    def _make_cursor(self, config: TaskConfig) -> ScheduleCursor | None:
        schedule = config.times()
        return None if schedule is None else ScheduleCursor(schedule, self._effects.wall_clock())

    def _find_cursor(self, task: Task, config: TaskConfig) -> ScheduleCursor | None:
        """Return the cursor of a changed task: the one that it has, if the schedule is the same."""
        old = task.config
        is_same = (old.schedule, old.timezone) == (config.schedule, config.timezone)
        return task.cursor if is_same else self._make_cursor(config)

    def find_obstacle(self) -> str:
        """Return why there can be no upgrade now, as a phrase after "while"; "" if there can."""
        for task in self.tasks.values():
            if task.is_running or task in self._ended:
                return f"task {task.name} is running"
            if task.request is not None:
                return f"task {task.name} is about to run on request"
        return ""

    def save(self) -> tuple[SavedTask, ...]:
        """Return what an upgrade hands over of the tasks, none of which is running."""
        return tuple(map(save_task, self.tasks.values()))

    def adopt(self, saved: Iterable[SavedTask]) -> None:
        """Have the tasks go on as they were before an upgrade; they are configured already."""
        for each in saved:
            if (task := self.tasks.get(each.name)) is not None:
                adopt_task(task, each)

    # -- views -------------------------------------------------------------------------------

    def statuses(self, explain: Callable[[str], str]) -> tuple[TaskStatus, ...]:
        """Return the status of every task, in the order of the config.

        `explain` explains what a task waits for, by its name.
        """
        return tuple(
            task.status(explain(task.name) if task.is_waiting else "")
            for task in self.tasks.values()
        )

    @property
    def is_running(self) -> bool:
        """Whether any task has a process."""
        return any(task.is_running for task in self.tasks.values())

    @property
    def completed(self) -> frozenset[str]:
        """The tasks that have succeeded."""
        return frozenset(name for name, task in self.tasks.items() if task.has_completed)

    # -- requests ----------------------------------------------------------------------------

    def request_run(self, name: str, on_data: Callable[[str, bytes], None] | None) -> RunRequest:
        """Have a task run now. Raises UsageError if it runs already."""
        task = self.tasks[name]
        if task.state.has_run or task.request is not None:
            pid = f" (pid {task.run.process.pid})" if task.run and task.run.process else ""
            raise UsageError(
                f"task {name} is running already{pid}; `meshtrio stop {name}` stops it"
            )
        if task.unkillable:
            raise UsageError(f"task {name} still has a process: {task.unkillable[0]}")
        request = RunRequest(on_data)
        task.request_run(request)
        self._on_change()
        return request

    def cancel(self, name: str, request: RunRequest) -> None:
        """Stop the run of a request, unless it has ended."""
        task = self.tasks.get(name)
        if task is not None and task.request is request:
            task.cancel_request()
            self._on_change()

    def start_shutdown(self) -> None:
        """Stop all runs, in reverse of their order; nothing is started from now on."""
        for task in self.tasks.values():
            task.request_stop()

    # -- what the supervisor loop calls ------------------------------------------------------

    def reconcile(
        self,
        runs: trio.Nursery,
        status: DependencyStatus,
        *,
        is_stopping: bool,
        starts_paused: bool = False,
    ) -> float:
        """Start and stop what is due; returns when there is more to do.

        With `starts_paused` nothing is started, and what is due waits.
        """
        now, wake_at = trio.current_time(), math.inf
        tasks = list(self.tasks.values())
        if not is_stopping:
            wake_at = min((self._check_schedule(task, now) for task in tasks), default=math.inf)
        todo = plan_tasks(tasks, status, now)
        for task in todo.stop:
            assert task.run is not None
            task.run.stop()
        for task in () if starts_paused else todo.start:
            self._launch(task, runs)
        return min(wake_at, todo.wake_at)

    def handle_exits(self) -> None:
        """Handle the ends of runs."""
        while self._ended:
            self._handle_exit(self._ended.popleft())

    def _check_schedule(self, task: Task, now: float) -> float:
        """Have a task run if it is due; returns when to check again."""
        cursor, wall_time = task.cursor, self._effects.wall_clock()
        if cursor is None:
            return math.inf
        due = cursor.check(wall_time)
        if due.missed:
            is_counted = due.missed < MAX_COUNTED_RUNS - 1
            reason = _CLOCK_REASON if is_counted else f"{_CLOCK_REASON}; no more are counted"
            task.missed += due.missed
            self._emit(task, events.TaskMissed, count=due.missed, reason=reason)
        if due.is_due:
            if reason := _find_overlap(task):
                self._report_overlap(task, reason)
            else:
                task.request_run()
        if cursor.next_time is None:
            return math.inf
        return now + min(max(cursor.next_time - wall_time, 0), _CLOCK_INTERVAL)

    def _report_overlap(self, task: Task, reason: str) -> None:
        """Count a missed run, and emit an event for such runs at most every `_REPORT_INTERVAL`."""
        task.missed += 1
        task.unreported_missed += 1
        now = trio.current_time()
        if now - task.missed_reported_at >= _REPORT_INTERVAL:
            task.missed_reported_at = now
            self._emit_overlap(task, reason)

    def _emit_overlap(self, task: Task, reason: str) -> None:
        count, task.unreported_missed = task.unreported_missed, 0
        self._emit(task, events.TaskMissed, count=count, reason=reason)

    def _launch(self, task: Task, runs: trio.Nursery) -> None:
        run = TaskRun(
            task.config,
            mesh_socket=self._mesh_socket,
            effects=self._effects,
            line_buffer=task.line_buffer,
            emit=partial(self._emit, task),
        )
        task.launch(run)
        runs.start_soon(self._run_process, task, run)

    async def _run_process(self, task: Task, run: TaskRun) -> None:
        await run.run()
        await self._kill_orphans(task, run.identity)
        self._ended.append(task)
        self._on_change()

    def _handle_exit(self, task: Task) -> None:
        delay = task.config.backoff.delay(task.attempts, self._effects.rng)
        state = task.handle_exit(trio.current_time(), self._effects.wall_clock(), delay)
        if state is TaskState.BACKOFF:
            left = task.config.retries - task.attempts
            self._emit(task, events.TaskRetrying, delay=delay, retries_left=left)
        if state is not TaskState.BACKOFF and task.unreported_missed:
            self._emit_overlap(task, _OVERLAP_REASON)
        if state is TaskState.COMPLETED:
            assert task.last_result is not None
            self._emit(task, events.TaskCompleted, duration=task.last_result.duration)
        elif state is TaskState.FAILED:
            self._emit(task, events.TaskFailed, exit=task.last_exit, attempts=task.attempts)


def _find_overlap(task: Task) -> str:
    """Return why a task that is due cannot run, as a phrase; "" if it can."""
    if task.unkillable:
        return f"a process of it is left: {task.unkillable[0]}"
    if task.state.is_waiting:
        return "the run before has not started yet"
    return "" if task.state is TaskState.SCHEDULED else _OVERLAP_REASON
