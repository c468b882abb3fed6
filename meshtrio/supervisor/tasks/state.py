"""The state machine of a task. Pure.

    PENDING --LAUNCH--> RUNNING --SUCCEED, FAIL--> COMPLETED, FAILED
                        RUNNING --RETRY--> BACKOFF --LAUNCH--> RUNNING
                        RUNNING --STOP--> STOPPING --ENDED--> STOPPED
    PENDING, BACKOFF --STOP--> STOPPED
    any state without a process --REQUEST--> PENDING

A task with a schedule is SCHEDULED instead of COMPLETED, FAILED or STOPPED, and its `TaskOutcome`
says how its last run ended. A pair that the table does not allow raises ValueError.
"""

from __future__ import annotations

from enum import Enum


class TaskState(Enum):
    """The state of a task, as it is shown."""

    PENDING = "pending"
    """It is to run, and waits for its dependencies."""
    RUNNING = "running"
    """It has a process."""
    BACKOFF = "backoff"
    """It has failed, and is started again after a delay."""
    STOPPING = "stopping"
    """Its process is being stopped on request."""
    COMPLETED = "completed"
    """Its last run succeeded."""
    FAILED = "failed"
    """Its last run failed, and is not repeated."""
    STOPPED = "stopped"
    """Its last run was stopped on request."""
    SCHEDULED = "scheduled"
    """It waits for the next time of its schedule."""

    @property
    def has_run(self) -> bool:
        """Whether there is a process, or is about to be none."""
        return self in (TaskState.RUNNING, TaskState.STOPPING)

    @property
    def is_waiting(self) -> bool:
        """Whether the task is to be launched."""
        return self in (TaskState.PENDING, TaskState.BACKOFF)


class TaskOutcome(Enum):
    """How a run ended, with all of its retries; the values are metric labels."""

    COMPLETED = "completed"
    FAILED = "failed"
    STOPPED = "stopped"


class TaskEvent(Enum):
    """What changes the state of a task."""

    REQUEST = "request"
    """It is to run: it is due, or an operator requests it."""
    LAUNCH = "launch"
    """A process is started."""
    SUCCEED = "succeed"
    """The process has exited with status 0."""
    RETRY = "retry"
    """The process has failed, and another is started after a delay."""
    FAIL = "fail"
    """The process has failed, and no other is started."""
    STOP = "stop"
    """An operator, or the shutdown of the mesh, wants it not to run."""
    ENDED = "ended"
    """The process that was to be stopped has ended."""


_S, _E = TaskState, TaskEvent
_IDLE = {_E.REQUEST: _S.PENDING, _E.STOP: None}
_STATES: dict[TaskState, dict[TaskEvent, TaskState | None]] = {
    _S.PENDING: {_E.REQUEST: None, _E.LAUNCH: _S.RUNNING, _E.STOP: _S.STOPPED},
    _S.BACKOFF: {_E.REQUEST: _S.PENDING, _E.LAUNCH: _S.RUNNING, _E.STOP: _S.STOPPED},
    _S.RUNNING: {
        _E.SUCCEED: _S.COMPLETED,
        _E.RETRY: _S.BACKOFF,
        _E.FAIL: _S.FAILED,
        _E.STOP: _S.STOPPING,
    },
    _S.STOPPING: {_E.STOP: None, _E.ENDED: _S.STOPPED},
    _S.COMPLETED: _IDLE,
    _S.FAILED: _IDLE,
    _S.STOPPED: _IDLE,
    _S.SCHEDULED: _IDLE,
}
"""None leaves the state as it is."""
_FINAL = (_S.COMPLETED, _S.FAILED, _S.STOPPED)


def next_state(state: TaskState, event: TaskEvent, *, has_schedule: bool) -> TaskState:
    """Return the state that an event leads to. Raises ValueError if the pair is not listed."""
    following = _STATES[state]
    if event not in following:
        raise ValueError(f"a task that is {state.value} cannot {event.value}")
    return resting_state(following[event] or state, has_schedule=has_schedule)


def resting_state(state: TaskState, *, has_schedule: bool) -> TaskState:
    """Return SCHEDULED instead of a final state for a task with a schedule."""
    return TaskState.SCHEDULED if has_schedule and state in _FINAL else state
