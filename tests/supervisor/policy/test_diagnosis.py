"""Diagnosis of failed checks, by what the process did meanwhile."""

from __future__ import annotations

from typing import Any

import pytest

from meshtrio.supervisor.policy.diagnosis import (
    UNEXPLAINED,
    Activity,
    Condition,
    FailureStreak,
    correct_condition,
    diagnose,
    ready_timeout_extension,
)


def activity(**values: Any) -> Activity:
    return Activity(duration=10.0, **values)


IDLE = activity(cpu_time=0.05, run_delay=0.05)
BUSY = activity(cpu_time=9.0, run_delay=0.5)


@pytest.mark.parametrize(
    ("found", "did", "expected"),
    [
        (Condition.STUCK, IDLE, Condition.STUCK),
        (Condition.STUCK, None, Condition.STUCK),
        (Condition.STUCK, BUSY, Condition.COMPUTING),
        (Condition.STUCK, activity(cpu_time=0.2, run_delay=0.9), Condition.WAITING_FOR_CPU),
        (Condition.STUCK, activity(has_runnable_thread=True), Condition.WAITING_FOR_CPU),
        (Condition.STUCK, activity(has_blocked_thread=True), Condition.WAITING_FOR_DISK),
        (Condition.STUCK, activity(major_faults=200), Condition.WAITING_FOR_DISK),
        (Condition.STUCK, activity(major_faults=20), Condition.STUCK),
        (Condition.STUCK, activity(cpu_time=5.0, is_stopped=True), Condition.STOPPED),
        (Condition.STUCK, activity(is_queue_draining=True), Condition.ACCEPTING),
        (Condition.CLOSING, IDLE, Condition.CLOSING),
        (Condition.BACKLOG_FULL, None, Condition.BACKLOG_FULL),
        (Condition.BACKLOG_FULL, IDLE, Condition.BACKLOG_FULL),
        (Condition.BACKLOG_FULL, BUSY, Condition.COMPUTING),
        (Condition.BACKLOG_FULL, activity(is_stopped=True), Condition.STOPPED),
    ],
)
def test_conditions(found: Condition, did: Activity | None, expected: Condition) -> None:
    assert diagnose(found, did) is expected
    assert found in UNEXPLAINED


@pytest.mark.parametrize(
    ("found", "queue", "unanswered", "expected"),
    [
        (Condition.BACKLOG_FULL, None, 0, Condition.BACKLOG_FULL),
        (Condition.BACKLOG_FULL, (3, 2), 2, Condition.BACKLOG_FULL),
        # Only the checks themselves wait.
        (Condition.BACKLOG_FULL, (3, 2), 3, Condition.STUCK),
        (Condition.STUCK, (1, 128), 1, Condition.STUCK),
        # On TCP a check of a full server just gets no answer.
        (Condition.STUCK, (129, 128), 1, Condition.BACKLOG_FULL),
        (Condition.CLOSING, (129, 128), 0, Condition.CLOSING),
    ],
)
def test_what_fills_the_backlog(
    found: Condition, queue: tuple[int, int] | None, unanswered: int, expected: Condition
) -> None:
    assert correct_condition(found, queue, unanswered) is expected


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
