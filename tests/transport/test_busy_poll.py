"""When polling before the process sleeps pays: the policy, on made-up waits."""

from __future__ import annotations

from itertools import cycle, islice, pairwise, repeat
from random import Random

import pytest

from meshtrio.transport.busy_poll import BusyPoll, Phase
from tests.support.busy_poll_traces import US, TracedProcess, call_at_pace, call_in_turn

MAX_POLL = 500 * US
SHORT, LONG = 100 * US, 10_000 * US
TRIAL_WAITS = 64


class Waits:
    """Feeds waits to a policy: of one length if it sleeps, of another if it polls."""

    def __init__(self, max_poll: float = MAX_POLL, sleep_cpu: float = 0.0) -> None:
        """`sleep_cpu` is the CPU time that sleeping and waking up take."""
        self.policy = BusyPoll(max_poll)
        self.sleep_cpu = sleep_cpu
        self.now = 0.0
        self.cpu = 0.0
        self.polled = 0.0

    def add(
        self, slept: float, polled: float | None = None, *, count: int = 1, displaced: float = 0.0
    ) -> None:
        for _ in range(count):
            poll_time = self.policy.poll_time
            waited = slept if polled is None or not poll_time else polled
            took = min(waited, poll_time)
            self.polled += took
            self.now += waited + SHORT
            self.cpu += (took or self.sleep_cpu) + SHORT
            displaced_poll = displaced if poll_time else 0.0
            self.policy.record_wait(self.now, waited, took, displaced_poll, self.cpu)


def polling_waits() -> Waits:
    """Return waits whose policy has found that polling pays."""
    waits = Waits()
    waits.add(2 * SHORT, SHORT, count=32 + TRIAL_WAITS)
    assert waits.policy.phase is Phase.POLLING
    return waits


# -- phases --------------------------------------------------------------------------------------


def test_a_trial_has_to_be_earned_by_short_waits() -> None:
    waits = Waits()
    waits.add(SHORT, count=31)
    assert waits.policy.phase is Phase.SLEEPING
    waits.add(SHORT)
    assert waits.policy.phase is Phase.TRIAL


@pytest.mark.parametrize("lengths", [[LONG], [SHORT, LONG], [SHORT, SHORT, LONG]])
def test_long_waits_prevent_a_trial(lengths: list[float]) -> None:
    waits = Waits()
    for length in islice(cycle(lengths), 3000):
        waits.add(length)
    assert waits.policy.phase is Phase.SLEEPING
    assert not waits.polled


def test_a_trial_polls_in_half_of_the_waits_by_blocks() -> None:
    waits = Waits()
    waits.add(SHORT, count=32)
    kinds = []
    for _ in range(TRIAL_WAITS):
        assert waits.policy.phase is Phase.TRIAL
        kinds.append(waits.policy.poll_time > 0)
        waits.add(SHORT)
    assert kinds == ([False] * 8 + [True] * 8) * 4


@pytest.mark.parametrize(
    ("slept", "polled", "phase"),
    [
        (2 * SHORT, SHORT, Phase.POLLING),
        (1.5 * SHORT, SHORT, Phase.POLLING),
        (1.35 * SHORT, SHORT, Phase.SLEEPING),  # more than 0.85 of the time from read to read
        (1.25 * SHORT, SHORT, Phase.SLEEPING),  # less than three tenths of the time of polls
        (SHORT, SHORT, Phase.SLEEPING),
        (SHORT, 2 * SHORT, Phase.SLEEPING),
        (5 * US, 5 * US, Phase.POLLING),  # costs nothing
    ],
)
def test_what_a_trial_decides(slept: float, polled: float, phase: Phase) -> None:
    waits = Waits()
    waits.add(slept, polled, count=32 + TRIAL_WAITS)
    assert waits.policy.phase is phase


@pytest.mark.parametrize(
    ("slept", "sleep_cpu", "phase"),
    [
        (1.15 * SHORT, 0.6 * SHORT, Phase.POLLING),
        (1.05 * SHORT, 0.6 * SHORT, Phase.SLEEPING),  # less than a tenth of the time of polls
        (1.15 * SHORT, 0.2 * SHORT, Phase.SLEEPING),  # more than 1.5 times the CPU time
    ],
)
def test_polls_that_use_hardly_more_cpu_time_have_to_gain_less(
    slept: float, sleep_cpu: float, phase: Phase
) -> None:
    waits = Waits(sleep_cpu=sleep_cpu)
    waits.add(slept, SHORT, count=32 + TRIAL_WAITS)
    assert waits.policy.phase is phase


def test_calls_at_a_pace_gain_nothing_by_shorter_waits() -> None:
    policy, cpu, phases = BusyPoll(MAX_POLL), 0.0, set()
    for number in range(32 + TRIAL_WAITS):
        waited = 95 * US if policy.poll_time else 145 * US
        polled = waited if policy.poll_time else 0.0
        cpu += 140 * US if policy.poll_time else 100 * US
        policy.record_wait(number * 333 * US + waited, waited, polled, cpu=cpu)
        phases.add(policy.phase)
    assert phases == {Phase.SLEEPING, Phase.TRIAL}


def test_polls_that_take_more_than_four_times_the_work_do_not_pay() -> None:
    waits = Waits(max_poll=0.01)
    waits.add(20 * SHORT, 5 * SHORT, count=32 + TRIAL_WAITS)
    assert waits.policy.phase is Phase.SLEEPING


def test_a_process_that_mostly_idles_does_not_poll() -> None:
    waits = Waits()
    for length in islice(cycle([2 * SHORT] * 30 + [LONG]), 32 + 31 + TRIAL_WAITS):
        waits.add(length, min(length, SHORT) if length < LONG else LONG)
    assert waits.polled
    assert waits.policy.phase is Phase.SLEEPING


def test_success_is_verified_now_and_then() -> None:
    waits = polling_waits()
    waits.add(2 * SHORT, SHORT, count=2047)
    assert waits.policy.phase is Phase.POLLING
    waits.add(2 * SHORT, SHORT)
    assert waits.policy.phase is Phase.TRIAL
    waits.add(SHORT, count=TRIAL_WAITS)  # wake-ups have become cheap
    assert waits.policy.phase is Phase.SLEEPING


# -- the time of a poll --------------------------------------------------------------------------


def test_the_time_of_a_poll_grows_and_shrinks_with_the_waits() -> None:
    waits = polling_waits()
    waits.add(2 * SHORT, SHORT, count=50)
    assert waits.policy.poll_time == pytest.approx(210 * US, rel=0.01)
    waits.add(200 * US, count=50)
    assert waits.policy.poll_time == pytest.approx(410 * US, rel=0.01)
    waits.add(20 * US, count=50)
    assert waits.policy.poll_time == pytest.approx(50 * US, rel=0.01)


def test_the_time_of_a_poll_is_at_most_the_maximum() -> None:
    waits = polling_waits()
    waits.add(450 * US, count=50)
    assert waits.policy.poll_time == MAX_POLL


def test_a_maximum_of_nothing_never_polls() -> None:
    waits = Waits(max_poll=0.0)
    waits.add(0.0, count=1000)
    waits.add(SHORT, count=1000)
    assert waits.policy.phase is Phase.SLEEPING
    assert not waits.polled


# -- giving up -----------------------------------------------------------------------------------


def test_a_single_pause_changes_nothing() -> None:
    waits = polling_waits()
    for _ in range(20):
        waits.add(2 * SHORT, SHORT, count=50)
        waits.add(LONG)
        assert waits.policy.phase is Phase.POLLING


def test_few_polls_in_a_row_that_find_nothing_end_it() -> None:
    waits = polling_waits()
    waits.add(LONG, count=4)
    assert waits.policy.phase is Phase.SLEEPING


def test_others_that_get_the_core_end_it() -> None:
    waits = polling_waits()
    waits.add(SHORT, displaced=0.09 * SHORT, count=1000)
    assert waits.policy.phase is Phase.POLLING
    waits.add(400 * US, displaced=300 * US, count=5)
    assert waits.policy.phase is Phase.SLEEPING


def test_a_core_that_is_taken_away_once_in_a_while_does_not() -> None:
    waits = polling_waits()
    for _ in range(10):
        waits.add(5000 * US, displaced=4000 * US)
        waits.add(SHORT, count=200)
        assert waits.policy.phase is Phase.POLLING


def test_failed_trials_become_rare() -> None:
    waits = Waits()
    began = []
    while waits.now < 60:
        before = waits.policy.phase
        waits.add(2 * SHORT)
        if waits.policy.phase is Phase.TRIAL and before is Phase.SLEEPING:
            began.append(waits.now)
    gaps = [after - before for before, after in pairwise(began)]
    assert gaps[:5] == sorted(gaps[:5])
    assert 5 < gaps[-1] < 10
    assert waits.polled < 0.002 * waits.now


@pytest.mark.parametrize("times", [1, 5])
def test_a_process_that_was_stopped_for_an_hour_polls_again_after_seconds(times: int) -> None:
    waits = polling_waits()
    waits.add(3600.0, displaced=3600.0, count=times)
    assert (waits.policy.phase is Phase.SLEEPING) is (times == 5)
    end = waits.now + 11
    while waits.now < end:
        waits.add(2 * SHORT, SHORT)
    assert waits.policy.phase is Phase.POLLING


# -- calls between two processes that both poll --------------------------------------------------


def make_pair(
    max_poll: float, *, noise: float = 0.3, wake_up: float = 60 * US, displaced: float = 0.0
) -> tuple[TracedProcess, TracedProcess]:
    rng = Random(7)
    client, server = (
        TracedProcess(BusyPoll(max_poll), rng, noise, wake_up, displaced) for _ in range(2)
    )
    return client, server


@pytest.mark.parametrize("noise", [0.0, 0.3, 0.8])
@pytest.mark.parametrize("max_poll", [MAX_POLL, 2 * MAX_POLL])
def test_calls_one_after_another_get_faster(max_poll: float, noise: float) -> None:
    slept, _ = call_in_turn(*make_pair(0.0, noise=noise), repeat(0.0, 5000))
    polled, _ = call_in_turn(*make_pair(max_poll, noise=noise), repeat(0.0, 5000))
    assert polled < slept / 1.5


def test_where_wake_ups_cost_nothing_it_sleeps() -> None:
    client, server = make_pair(MAX_POLL, wake_up=4 * US)
    call_in_turn(client, server, repeat(0.0, 20_000))
    assert client.polled_waits + server.polled_waits < 1000


def test_where_others_need_the_cores_it_sleeps() -> None:
    client, server = make_pair(MAX_POLL, displaced=0.5)
    call_in_turn(client, server, repeat(0.0, 20_000))
    assert client.polled_waits + server.polled_waits < 1000


PAUSES = {
    "every call, above the maximum": [600 * US],
    "every call, just below the maximum": [250 * US],
    "pairs": [0.0, LONG],
    "pairs, just above the maximum": [0.0, 450 * US],
    "bursts of 20": [0.0] * 20 + [LONG],
    "one of ten": [0.0] * 9 + [2000 * US],
}


@pytest.mark.parametrize("name", PAUSES)
def test_calls_with_pauses_cost_little_more_than_sleeping(name: str) -> None:
    pauses = list(islice(cycle(PAUSES[name]), 8000))
    _, slept = call_in_turn(*make_pair(0.0), iter(pauses))
    _, polled = call_in_turn(*make_pair(MAX_POLL), iter(pauses))
    assert polled < 1.15 * slept


@pytest.mark.parametrize("rate", [100, 1000, 1500, 2000, 3000])
def test_paced_calls_cost_little_more_than_sleeping(rate: int) -> None:
    slept = call_at_pace(*make_pair(0.0), rate, 3 * rate)
    polled = call_at_pace(*make_pair(MAX_POLL), rate, 3 * rate)
    assert polled < 1.15 * slept
    assert (polled == slept) is (rate <= 1500)
