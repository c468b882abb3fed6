"""The states of a task."""

from __future__ import annotations

import pytest

from meshtrio.supervisor.tasks.state import TaskEvent, TaskState, next_state

E, S = TaskEvent, TaskState

PATHS = [
    ([E.LAUNCH, E.SUCCEED], S.COMPLETED, S.SCHEDULED),
    ([E.LAUNCH, E.RETRY, E.LAUNCH, E.FAIL], S.FAILED, S.SCHEDULED),
    ([E.LAUNCH, E.RETRY], S.BACKOFF, S.BACKOFF),
    ([E.LAUNCH, E.RETRY, E.STOP], S.STOPPED, S.SCHEDULED),
    ([E.LAUNCH, E.RETRY, E.REQUEST], S.PENDING, S.PENDING),
    ([E.LAUNCH, E.STOP], S.STOPPING, S.STOPPING),
    ([E.LAUNCH, E.STOP, E.STOP, E.ENDED], S.STOPPED, S.SCHEDULED),
    ([E.STOP], S.STOPPED, S.SCHEDULED),
    ([E.STOP, E.STOP], S.STOPPED, S.SCHEDULED),
    ([E.LAUNCH, E.FAIL, E.REQUEST, E.LAUNCH], S.RUNNING, S.RUNNING),
]


@pytest.mark.parametrize(("path", "once", "scheduled"), PATHS)
def test_paths(path: list[TaskEvent], once: TaskState, scheduled: TaskState) -> None:
    for has_schedule, expected in ((False, once), (True, scheduled)):
        state = TaskState.PENDING
        for event in path:
            state = next_state(state, event, has_schedule=has_schedule)
        assert state is expected


@pytest.mark.parametrize(
    ("state", "event"),
    [
        (S.RUNNING, E.REQUEST),
        (S.RUNNING, E.LAUNCH),
        (S.STOPPING, E.SUCCEED),
        (S.PENDING, E.FAIL),
        (S.COMPLETED, E.LAUNCH),
        (S.SCHEDULED, E.LAUNCH),
        (S.STOPPED, E.ENDED),
    ],
)
def test_pairs_that_are_not_listed_are_errors(state: TaskState, event: TaskEvent) -> None:
    with pytest.raises(ValueError, match=f"a task that is {state.value} cannot {event.value}"):
        next_state(state, event, has_schedule=False)
