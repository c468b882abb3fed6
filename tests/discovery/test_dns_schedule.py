"""When names are looked up, in virtual time."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshtrio.discovery.dns.schedule import (
    FAILURE_BACKOFF,
    MAX_EARLY_LOOKUPS,
    MAX_TTL,
    MIN_TTL,
    LookupSchedule,
)

START = 1000.0


def make_schedule() -> LookupSchedule:
    return LookupSchedule(START, Random(1))


def answered(ttl: float, now: float = START) -> LookupSchedule:
    schedule = make_schedule()
    schedule.on_start(now)
    schedule.on_answer(now, ttl, has_changed=True)
    return schedule


def test_the_first_lookup_is_at_once() -> None:
    assert make_schedule().next_at == START


@pytest.mark.parametrize(
    ("ttl", "seconds"), [(0, MIN_TTL), (0.2, MIN_TTL), (30, 30), (600, MAX_TTL), (2**31, MAX_TTL)]
)
def test_an_answer_is_valid_for_its_ttl_within_bounds(ttl: float, seconds: float) -> None:
    assert answered(ttl).next_at == START + seconds


def test_failures_back_off_up_to_a_maximum() -> None:
    schedule, now, delays = answered(60), START, []
    for _ in range(20):
        now = schedule.next_at
        schedule.on_start(now)
        schedule.on_failure(now)
        delays.append(schedule.next_at - now)
    assert all(delay >= MIN_TTL for delay in delays)
    assert max(delays) <= FAILURE_BACKOFF.maximum * 1.2
    assert min(delays[5:]) >= FAILURE_BACKOFF.maximum * 0.8
    schedule.on_start(now)
    schedule.on_answer(now, 20, has_changed=False)
    assert schedule.next_at == now + 20
    schedule.on_failure(now)
    assert schedule.next_at - now <= 1.2 * MIN_TTL, "a success starts the backoff again"


def test_a_connection_that_fails_makes_the_lookup_earlier() -> None:
    schedule = answered(60)
    schedule.on_connect_failure(START + 20)
    assert schedule.next_at == START + 20


def test_two_lookups_are_never_closer_than_the_minimum() -> None:
    schedule = answered(60)
    schedule.on_connect_failure(START + 0.1)
    assert schedule.next_at == START + MIN_TTL


def test_early_lookups_repeat_until_the_answer_changes() -> None:
    schedule = answered(60)
    schedule.on_connect_failure(START + 20)
    delays = []
    for _ in range(3):
        now = schedule.next_at
        schedule.on_start(now)
        schedule.on_answer(now, 60, has_changed=False)
        schedule.on_connect_failure(now)  # Others fail, too: that makes it no more often.
        delays.append(schedule.next_at - now)
    assert delays == [1, 2, 4]
    now = schedule.next_at
    schedule.on_start(now)
    schedule.on_answer(now, 60, has_changed=True)
    assert schedule.next_at == now + 60


def test_early_lookups_end_if_nothing_changes() -> None:
    schedule = answered(60)
    schedule.on_connect_failure(START + 20)
    times = []
    for _ in range(MAX_EARLY_LOOKUPS + 1):
        times.append(schedule.next_at)
        schedule.on_start(times[-1])
        schedule.on_answer(times[-1], 60, has_changed=False)
    assert times[-1] - times[0] == 31
    assert schedule.next_at == times[-1] + 60
    schedule.on_connect_failure(times[-1] + 5)
    assert schedule.next_at == times[-1] + 5


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["answer", "changed", "failure"]),
            st.floats(0, 10),  # how long a lookup takes
            st.floats(0, 2**31),  # TTL
            st.lists(st.floats(0, 70), max_size=5),  # when connections fail
        ),
        max_size=60,
    )
)
def test_lookups_stay_within_their_bounds(
    steps: list[tuple[str, float, float, list[float]]],
) -> None:
    schedule, last, ended = make_schedule(), None, START
    for kind, duration, ttl, connect_failures in steps:
        for delay in sorted(connect_failures):
            if ended + delay < schedule.next_at:
                schedule.on_connect_failure(ended + delay)
        start = max(schedule.next_at, ended)
        if last is not None:
            assert start - last >= MIN_TTL - 1e-6
            assert start - ended <= MAX_TTL + 1e-6
        schedule.on_start(start)
        last, ended = start, start + duration
        if kind == "failure":
            schedule.on_failure(ended)
        else:
            schedule.on_answer(ended, ttl, has_changed=kind == "changed")
