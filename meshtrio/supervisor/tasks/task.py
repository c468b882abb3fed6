"""A row of the table of tasks: its state, its run, and the results of runs before."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable

import attrs

from meshtrio.config import TaskConfig
from meshtrio.supervisor.policy.restart import Exit
from meshtrio.supervisor.process.cleanup.leftover_killer import UnkillableProcess
from meshtrio.supervisor.process.output.output_lines import LineBuffer
from meshtrio.supervisor.tasks.run import TaskRun
from meshtrio.supervisor.tasks.schedule_cursor import ScheduleCursor
from meshtrio.supervisor.tasks.state import (
    TaskEvent,
    TaskOutcome,
    TaskState,
    next_state,
    resting_state,
)


@attrs.frozen
class TaskResult:
    """How a run of a task ended."""

    outcome: TaskOutcome
    """Whether it succeeded, failed or was stopped."""
    exit: Exit
    """How its process ended, or why it was not started."""
    duration: float
    """Seconds from the start of its process to its end."""


@attrs.frozen
class TaskStatus:
    """A task as it is now."""

    name: str
    """Its name."""
    state: TaskState
    """Whether it waits, runs, or how it ended."""
    pid: int | None
    """The process id, None if it has no process."""
    uptime: float | None
    """Seconds since its process was started, None if it has none."""
    retries: int
    """How many times it was started again in the present run, or in the last one."""
    next_time: float | None
    """Unix time of the next run by its schedule, None if there is none."""
    last_outcome: TaskOutcome | None
    """How the last run ended, None if none has ended."""
    last_exit: Exit | None
    """How the last process ended, None if none has ended."""
    last_duration: float | None
    """Seconds that the last process ran, None if none has ended."""
    last_ended_at: float | None
    """Unix time of the end of the last run, None if none has ended."""
    last_success_at: float | None
    """Unix time of the end of the last run that succeeded, None if none has."""
    missed: int
    """Number of runs of its schedule that were left out."""
    reason: str
    """What it waits for, or how its last process ended unless that succeeded."""


@attrs.define(eq=False)
class RunRequest:
    """A run on request, until it has a result."""

    on_data: Callable[[str, bytes], None] | None = None
    """Called with the stream and the data that the process writes."""
    was_waiting: bool = False
    """Whether the task was about to run without it."""
    result: TaskResult | None = None
    """How the run ended; None until then."""


@attrs.define(eq=False)
class Task:
    """One task; see `state` for its states. Only the `TaskRunner` launches and stops its runs."""

    config: TaskConfig
    """The configuration that its next process gets."""
    state: TaskState
    """Whether it waits, runs, or how it ended."""
    cursor: ScheduleCursor | None = None
    """Its position in its schedule, None if it has none."""
    run: TaskRun | None = None
    """The run of its process; None if it has none."""
    request: RunRequest | None = None
    """The request for the present run, None if it is not on request."""
    attempts: int = 0
    """Number of processes of the present run, or of the last one."""
    start_at: float = -math.inf
    """The earliest time of its start, in seconds of the monotonic clock."""
    has_completed: bool = False
    """Whether a run has ever succeeded, for those that depend on it."""
    last_result: TaskResult | None = None
    """How the last run ended."""
    last_exit: Exit | None = None
    """How the last process ended."""
    last_ended_at: float | None = None
    """Unix time of the end of the last run."""
    last_success_at: float | None = None
    """Unix time of the end of the last run that succeeded."""
    missed: int = 0
    """Number of runs of its schedule that were left out."""
    unreported_missed: int = 0
    """Number of those for which there was no event yet."""
    missed_reported_at: float = -math.inf
    """When there was the last event of missed runs, in seconds of the monotonic clock."""
    outcomes: Counter[TaskOutcome] = attrs.field(factory=Counter)
    """Number of runs by outcome."""
    unkillable: tuple[UnkillableProcess, ...] = ()
    """Processes of it that cannot be killed and still run."""
    line_buffer: LineBuffer = attrs.field(factory=LineBuffer)
    """The last lines that its processes wrote."""

    @property
    def name(self) -> str:
        """Its name."""
        return self.config.name

    plugin = name
    number = 0

    @property
    def key(self) -> tuple[str, int]:
        """The name and the number, as an instance of a plugin has them."""
        return self.name, self.number

    @property
    def is_waiting(self) -> bool:
        """Whether it is to be started."""
        return self.state.is_waiting

    @property
    def is_running(self) -> bool:
        """Whether it has a process."""
        return self.run is not None

    @property
    def is_stop_queued(self) -> bool:
        """Whether its process is to be stopped, and was not yet asked to."""
        is_stopping = self.state is TaskState.STOPPING
        return is_stopping and self.run is not None and not self.run.is_stop_requested

    def status(self, waiting_reason: str) -> TaskStatus:
        """Return its status; the reason is what it waits for, if it is to be started."""
        run = self.run
        process = None if run is None else run.process
        last, reasons = self.last_result, []
        if self.state.is_waiting:
            reasons.append(waiting_reason)
        if not self.state.has_run and self.last_exit is not None and not self.last_exit.is_clean:
            reasons.append(str(self.last_exit))
        return TaskStatus(
            name=self.name,
            state=self.state,
            pid=None if process is None else process.pid,
            uptime=None if run is None or process is None else run.uptime,
            retries=max(self.attempts - 1, 0),
            next_time=None if self.cursor is None else self.cursor.next_time,
            last_outcome=None if last is None else last.outcome,
            last_exit=self.last_exit,
            last_duration=None if last is None else last.duration,
            last_ended_at=self.last_ended_at,
            last_success_at=self.last_success_at,
            missed=self.missed,
            reason="; ".join(filter(None, (*reasons, *map(str, self.unkillable)))),
        )

    # -- requests ----------------------------------------------------------------------------

    def apply_config(self, config: TaskConfig, cursor: ScheduleCursor | None) -> None:
        """Use another config for the next process.

        A task that has failed is to run again, if it has no schedule. The cursor is None if the
        schedule is none.
        """
        has_failed = self.state is TaskState.FAILED
        was_scheduled = self.config.schedule is not None
        self.config, self.cursor = config, cursor
        if self.run is not None:
            self.run.output_reader.log_level = config.output.log_level
        if cursor is not None:
            self.state = resting_state(self.state, has_schedule=True)
            is_own_run = self.request is None and not was_scheduled
            if self.state is TaskState.PENDING and is_own_run:
                self.state = TaskState.SCHEDULED
        elif has_failed or (was_scheduled and self.state is TaskState.SCHEDULED):
            self.attempts, self.state = 0, TaskState.PENDING

    def request_run(self, request: RunRequest | None = None) -> None:
        """Have it run: on request, or since it is due."""
        if request is not None:
            request.was_waiting = self.is_waiting
        self._apply(TaskEvent.REQUEST)
        self.request, self.attempts, self.start_at = request, 0, -math.inf

    def cancel_request(self) -> None:
        """Have the run on request stopped; a run that was to take place anyway still does."""
        assert self.request is not None
        if self.is_waiting and self.request.was_waiting:
            self.request = None
        else:
            self.request_stop()

    def request_stop(self) -> None:
        """Have the present run stopped, or given up if it has no process."""
        was_waiting = self.state.is_waiting
        self._apply(TaskEvent.STOP)
        if was_waiting:
            not_started = Exit(reason="was stopped before it was started")
            self._end_run(TaskResult(TaskOutcome.STOPPED, not_started, 0.0))

    # -- what the runner carries out ---------------------------------------------------------

    def launch(self, run: TaskRun) -> None:
        """Begin a process."""
        self._apply(TaskEvent.LAUNCH)
        self.run, self.attempts = run, self.attempts + 1
        if self.request is not None:
            run.output_reader.on_data = self.request.on_data

    def handle_exit(self, now: float, wall_time: float, delay: float) -> TaskState:
        """Remove the run, which has ended; a retry starts `delay` seconds later.

        Returns the state that an unscheduled task has then.
        """
        run, self.run = self.run, None
        assert run is not None
        assert run.exit is not None
        self.last_exit = run.exit
        if self.state is TaskState.STOPPING:
            event, outcome = TaskEvent.ENDED, TaskOutcome.STOPPED
        elif run.exit.is_clean:
            event, outcome = TaskEvent.SUCCEED, TaskOutcome.COMPLETED
        elif self._is_repeated(run.exit):
            self.start_at = now + delay
            self._apply(TaskEvent.RETRY)
            return self.state
        else:
            event, outcome = TaskEvent.FAIL, TaskOutcome.FAILED
        self.last_ended_at = wall_time
        if outcome is TaskOutcome.COMPLETED:
            self.has_completed, self.last_success_at = True, wall_time
        self._apply(event)
        self.last_result = TaskResult(outcome, run.exit, run.uptime)
        self._end_run(self.last_result)
        return TaskState(outcome.value)

    def _is_repeated(self, exit: Exit) -> bool:
        # Another process beside one that cannot be killed would be a second run at the same time.
        is_left = exit.is_unkillable or bool(self.unkillable)
        return self.request is None and not is_left and self.attempts <= self.config.retries

    def _end_run(self, result: TaskResult) -> None:
        self.outcomes[result.outcome] += 1
        if self.request is not None:
            self.request.result, self.request = result, None

    def _apply(self, event: TaskEvent) -> None:
        self.state = next_state(self.state, event, has_schedule=self.cursor is not None)
