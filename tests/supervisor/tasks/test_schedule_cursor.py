"""Which runs of a schedule are due and which are missed, as the wall clock moves."""

from __future__ import annotations

import re
from datetime import datetime
from zoneinfo import ZoneInfo

import pytest

from meshtrio.config import Schedule
from meshtrio.supervisor.tasks.schedule_cursor import MAX_COUNTED_RUNS, DueRuns, ScheduleCursor

BERLIN = ZoneInfo("Europe/Berlin")


def at(text: str) -> float:
    """The Unix time of a local time of Berlin in 2026, as in "03-29 03:00"."""
    return datetime.fromisoformat(f"2026-{text}").replace(tzinfo=BERLIN).timestamp()


def make_cursor(expression: str, start: str) -> ScheduleCursor:
    return ScheduleCursor(Schedule(expression, "Europe/Berlin"), at(start))


NOTHING, DUE = DueRuns(), DueRuns(is_due=True)
STEPS = {
    "in time": (
        "*/5 * * * *",
        "06-01 12:00:01",
        [("06-01 12:04:59", NOTHING), ("06-01 12:05:00", DUE), ("06-01 12:05:01", NOTHING)],
    ),
    "a little late": ("*/5 * * * *", "06-01 12:00:01", [("06-01 12:05:20", DUE)]),
    "not at the time of the start": ("0 12 * * *", "06-01 12:00", [("06-01 12:00", NOTHING)]),
    "asleep for an hour": (
        "*/5 * * * *",
        "06-01 12:01",
        [("06-01 13:01", DueRuns(missed=12)), ("06-01 13:05", DUE)],
    ),
    "awake just in time": (
        "*/5 * * * *",
        "06-01 12:01",
        [("06-01 13:00:10", DueRuns(is_due=True, missed=11))],
    ),
    "set back by an hour: nothing is repeated": (
        "*/5 * * * *",
        "06-01 12:01",
        [
            ("06-01 12:05", DUE),
            ("06-01 11:05", NOTHING),
            ("06-01 12:05", NOTHING),
            ("06-01 12:10", DUE),
        ],
    ),
    "set back by a day: the clock was wrong before": (
        "*/5 * * * *",
        "06-02 12:01",
        [("06-02 12:05", DUE), ("06-01 12:06", NOTHING), ("06-01 12:10", DUE)],
    ),
    "each second": (
        "* * * * * *",
        "06-01 12:00",
        [("06-01 12:00:01", DUE), ("06-01 12:00:05", DueRuns(is_due=True, missed=3))],
    ),
    "too many to count": (
        "* * * * * *",
        "06-01 12:00",
        [("06-02 12:00", DueRuns(is_due=True, missed=MAX_COUNTED_RUNS - 1))],
    ),
    "the hour that is skipped in spring runs after it": (
        "30 2 * * *",
        "03-28 12:00",
        [("03-29 01:59:59", NOTHING), ("03-29 03:00", DUE), ("03-30 02:30", DUE)],
    ),
}


@pytest.mark.parametrize(("expression", "start", "steps"), STEPS.values(), ids=STEPS)
def test_steps(expression: str, start: str, steps: list[tuple[str, DueRuns]]) -> None:
    cursor = make_cursor(expression, start)
    for time, expected in steps:
        assert cursor.check(at(time)) == expected, time


def test_the_hour_that_comes_twice_in_autumn_runs_once() -> None:
    times = Schedule("30 2 * * *", "Europe/Berlin").times_after(at("10-24 12:00"))
    assert next(times) == at("10-25 02:30")
    assert next(times) == at("10-26 02:30")


def test_local_time_is_that_of_tz(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "Europe/Berlin")
    assert next(Schedule("0 12 * * *").times_after(at("06-01 00:00"))) == at("06-01 12:00")


@pytest.mark.parametrize(
    ("expression", "reason"),
    [
        ("* 25 * * *", "the hour, field 2, cannot be '25'"),
        ("61 * * * * *", "the second, field 1, cannot be '61'"),
        ("* * * FOO *", "the month, field 4, cannot be 'FOO'"),
        ("@daily", "has 1 fields; it has five"),
        ("", "has 0 fields"),
        ("0 0 31 2,4 *", "the day-of-month, field 3"),
        ("0 0 */20 * 1L", "is never"),
    ],
)
def test_wrong_expressions(expression: str, reason: str) -> None:
    with pytest.raises(ValueError, match=re.escape(reason)):
        Schedule(expression)


@pytest.mark.parametrize("name", ["Europe/Nowhere", "", "../etc/passwd", "/etc/passwd", "\0"])
def test_wrong_zones(name: str) -> None:
    with pytest.raises(ValueError, match="is not a time zone of this machine"):
        Schedule("* * * * *", name)
