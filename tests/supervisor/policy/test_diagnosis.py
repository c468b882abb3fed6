"""Diagnosis of failed checks, by what the process did meanwhile."""

from __future__ import annotations

from typing import Any

import pytest

from meshtrio.supervisor.policy.diagnosis import (
    Activity,
    Condition,
    FailureStreak,
    Symptom,
    correct_symptom,
    diagnose,
    ready_timeout_extension,
)


def activity(**values: Any) -> Activity:
    return Activity(duration=10.0, **values)


IDLE = activity(cpu_time=0.05, run_delay=0.05)
BUSY = activity(cpu_time=9.0, run_delay=0.5)


@pytest.mark.parametrize(
    ("symptom", "did", "expected"),
    [
        (Symptom.NO_ANSWER, IDLE, Condition.STUCK),
        (Symptom.NO_ANSWER, None, Condition.STUCK),
        (Symptom.NO_ANSWER, BUSY, Condition.COMPUTING),
        (Symptom.NO_ANSWER, activity(cpu_time=0.2, run_delay=0.9), Condition.WAITING_FOR_CPU),
        (Symptom.NO_ANSWER, activity(has_runnable_thread=True), Condition.WAITING_FOR_CPU),
        (Symptom.NO_ANSWER, activity(has_blocked_thread=True), Condition.WAITING_FOR_DISK),
        (Symptom.NO_ANSWER, activity(major_faults=200), Condition.WAITING_FOR_DISK),
        (Symptom.NO_ANSWER, activity(major_faults=20), Condition.STUCK),
        (Symptom.NO_ANSWER, activity(cpu_time=5.0, is_stopped=True), Condition.STOPPED),
        (Symptom.NO_ANSWER, activity(is_queue_draining=True), Condition.ACCEPTING),
        (Symptom.CLOSED, IDLE, Condition.CLOSING),
        (Symptom.BACKLOG_FULL, None, Condition.BACKLOG_FULL),
        (Symptom.BACKLOG_FULL, IDLE, Condition.BACKLOG_FULL),
        (Symptom.BACKLOG_FULL, BUSY, Condition.COMPUTING),
        (Symptom.BACKLOG_FULL, activity(is_stopped=True), Condition.STOPPED),
        # Work is no excuse for a server that is not there, or that answers something else.
        (Symptom.UNREACHABLE, BUSY, Condition.UNREACHABLE),
        (Symptom.WRONG_ANSWER, BUSY, Condition.FAULTY),
    ],
)
def test_conditions(symptom: Symptom, did: Activity | None, expected: Condition) -> None:
    assert diagnose(symptom, did) is expected


@pytest.mark.parametrize(
    ("symptom", "queue", "unanswered", "expected"),
    [
        (Symptom.BACKLOG_FULL, None, 0, Symptom.BACKLOG_FULL),
        (Symptom.BACKLOG_FULL, (3, 2), 2, Symptom.BACKLOG_FULL),
        # Only the checks themselves wait.
        (Symptom.BACKLOG_FULL, (3, 2), 3, Symptom.NO_ANSWER),
        (Symptom.NO_ANSWER, (1, 128), 1, Symptom.NO_ANSWER),
        # On TCP a check of a full server just gets no answer.
        (Symptom.NO_ANSWER, (129, 128), 1, Symptom.BACKLOG_FULL),
        (Symptom.CLOSED, (129, 128), 0, Symptom.CLOSED),
    ],
)
def test_what_fills_the_backlog(
    symptom: Symptom, queue: tuple[int, int] | None, unanswered: int, expected: Symptom
) -> None:
    assert correct_symptom(symptom, queue, unanswered) is expected


def after(*conditions: Condition | None) -> str:
    streak = FailureStreak()
    for condition in conditions:
        assert streak.find_kill_reason(3, 5) == ""
        streak.record(condition)
    return streak.find_kill_reason(3, 5)


def test_checks_in_a_row() -> None:
    stuck, busy = Condition.STUCK, Condition.COMPUTING
    assert after(stuck, stuck) == ""
    assert after(stuck, stuck, None, stuck) == ""
    assert "failed 3 health checks" in after(stuck, Condition.UNREACHABLE, stuck)
    assert after(busy, busy, busy, busy) == ""
    assert "failed 5 health checks" in after(busy, stuck, busy, busy, stuck)
    assert "failed 3 health checks" in after(busy, stuck, stuck, stuck)


def test_the_longer_threshold_is_at_least_the_other() -> None:
    streak = FailureStreak(failures=4, stuck_failures=0)
    assert streak.find_kill_reason(10, 2) == ""
    assert FailureStreak(failures=10).find_kill_reason(10, 2) != ""


@pytest.mark.parametrize(
    ("waited", "extended", "expected"),
    [(0.0, 0.0, 0.0), (0.5, 0.0, 0.0), (4.0, 0.0, 4.0), (9.0, 4.0, 5.0), (90.0, 25.0, 5.0)],
)
def test_the_time_to_get_ready(waited: float, extended: float, expected: float) -> None:
    assert ready_timeout_extension(10.0, waited, extended) == expected


def test_what_the_log_says() -> None:
    assert str(BUSY) == "it used 90 % of a CPU and waited for one 5 % of the time"
    assert str(activity(is_stopped=True)) == "its processes are stopped, by a signal or a debugger"
