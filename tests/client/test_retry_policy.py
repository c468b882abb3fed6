"""Retries, against the text and the examples of gRFC A6."""

from __future__ import annotations

from random import Random

import purerpc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshtrio.client.retry.policy import (
    DO_NOT_RETRY,
    RetryBudget,
    RetryControl,
    RetryState,
    RetryThrottle,
    parse_pushback,
)
from meshtrio.errors import CallRefusedError
from meshtrio.grpc.service_config import RetryBudgetConfig, RetryPolicy, RetryThrottling
from meshtrio.util.backoff import Backoff

UNAVAILABLE, INTERNAL = 14, 13
EXAMPLE = RetryPolicy(4, Backoff(0.1, 1.0, 2.0, jitter=0.0), frozenset({UNAVAILABLE}))
"""The policy of A6's own example."""
NONE, NEVER = None, DO_NOT_RETRY


def control(throttle: RetryThrottle | None = None, seed: int = 0) -> RetryControl:
    found = RetryControl(Random(seed))
    found.throttle = throttle
    return found


def failure(code: int) -> purerpc.RpcFailedError:
    return {UNAVAILABLE: purerpc.UnavailableError, INTERNAL: purerpc.InternalError}[code]("no")


def retries(policy: RetryPolicy = EXAMPLE, throttle: RetryThrottle | None = None) -> RetryState:
    return RetryState(policy, control(throttle))


def test_the_example_makes_four_attempts() -> None:
    call = retries()
    assert [call.next_delay(failure(UNAVAILABLE), NONE, 0.0) for _ in range(4)] == [
        0.1,
        0.2,
        0.4,
        None,
    ]
    assert call.attempts == 4


def test_backoff_is_capped_and_jittered() -> None:
    policy = RetryPolicy(5, Backoff(0.1, 0.25, 2.0, jitter=0.2), frozenset({UNAVAILABLE}))
    for seed in range(50):
        call = RetryState(policy, control(seed=seed))
        delays = [call.next_delay(failure(UNAVAILABLE), NONE, 0.0) or 0.0 for _ in range(4)]
        for delay, plain in zip(delays, (0.1, 0.2, 0.25, 0.25), strict=True):
            assert plain * 0.8 <= delay <= plain * 1.2


def test_other_statuses_are_final() -> None:
    assert retries().next_delay(failure(INTERNAL), NONE, 0.0) is None


def test_no_policy_has_more_than_five_attempts() -> None:
    policy = RetryPolicy(100, Backoff(0.0), frozenset({UNAVAILABLE}))
    call = retries(policy)
    assert (
        sum(call.next_delay(failure(UNAVAILABLE), NONE, 0.0) is not None for _ in range(100)) == 4
    )


@pytest.mark.parametrize(
    ("value", "meaning"),
    [
        (None, NONE),
        ("0", 0.0),
        ("1500", 1.5),
        (b"20", 0.02),
        ("2147483647", 2147483.647),
        ("2147483648", NEVER),
        ("-1", NEVER),
        ("01", NEVER),
        ("", NEVER),
        ("soon", NEVER),
        ("1.5", NEVER),
        (" 1", NEVER),
        (b"\xff", NEVER),
    ],
)
def test_pushback_is_a_number_of_milliseconds_or_never(value: str, meaning: object) -> None:
    assert parse_pushback(value) == meaning


def test_pushback_sets_the_delay_and_starts_the_backoff_again() -> None:
    call = retries()
    assert call.next_delay(failure(UNAVAILABLE), NONE, 0.0) == 0.1
    assert call.next_delay(failure(UNAVAILABLE), 3.0, 0.0) == 3.0
    assert call.next_delay(failure(UNAVAILABLE), NONE, 0.0) == 0.1
    assert call.next_delay(failure(UNAVAILABLE), 3.0, 0.0) is None


def refusal(*, reached_server: bool) -> CallRefusedError:
    return CallRefusedError("no", reached_server=reached_server)


def test_a_call_that_never_left_is_retried_without_limit_or_policy() -> None:
    call = RetryState(None, control())
    for _ in range(100):
        delay = call.next_delay(refusal(reached_server=False), NONE, 0.0)
        assert delay is not None
        assert call.is_transparent
        assert 0 < delay < 10
    assert call.attempts == 1


def test_a_refused_call_is_retried_once_then_by_policy() -> None:
    refused = refusal(reached_server=True)
    call = RetryState(None, control())
    assert call.next_delay(refused, NONE, 0.0) is not None
    assert call.next_delay(refused, NONE, 0.0) is None
    call = retries()
    assert call.next_delay(refused, NONE, 0.0) is not None
    assert (call.is_transparent, call.attempts) == (True, 1)
    delays = [call.next_delay(refused, NONE, 0.0) for _ in range(4)]
    assert delays == [0.1, 0.2, 0.4, None]
    assert not call.is_transparent


def test_what_never_left_does_not_use_up_the_transparent_retry_of_a_refusal() -> None:
    call = RetryState(None, control())
    for _ in range(3):
        assert call.next_delay(refusal(reached_server=False), NONE, 0.0) is not None
    assert call.next_delay(refusal(reached_server=True), NONE, 0.0) is not None
    assert call.next_delay(refusal(reached_server=False), NONE, 0.0) is not None
    assert call.next_delay(refusal(reached_server=True), NONE, 0.0) is None


def test_transparent_retries_do_not_concern_throttle_and_budget() -> None:
    throttle = RetryThrottle(RetryThrottling(10, 0.1))
    found = control(throttle)
    found.budget = RetryBudget(RetryBudgetConfig(ratio=0.0, min_per_second=0.0))
    call = RetryState(EXAMPLE, found)
    assert call.next_delay(refusal(reached_server=True), NONE, 0.0) is not None
    assert throttle.tokens == 10
    assert call.next_delay(refusal(reached_server=True), NONE, 0.0) is None
    assert throttle.tokens == 9


def test_no_retry_is_due_after_the_deadline_nor_takes_from_the_budget() -> None:
    found = control()
    found.budget = RetryBudget(RetryBudgetConfig(ratio=0.0, min_per_second=0.1))
    call = RetryState(EXAMPLE, found)
    assert call.next_delay(failure(UNAVAILABLE), NONE, 5.0, deadline=5.1) is None
    assert found.budget.withdraw(5.0)
    assert not found.budget.withdraw(5.0)


def test_new_settings_keep_the_share_that_is_left() -> None:
    throttle = RetryThrottle(RetryThrottling(10, 0.1))
    for _ in range(6):
        throttle.on_failure()
    throttle.reconfigure(RetryThrottling(100, 1))
    assert (throttle.tokens, throttle.can_retry) == (40, False)
    budget = RetryBudget(RetryBudgetConfig(ratio=0.0, min_per_second=1.0))
    assert sum(budget.withdraw(1.0) for _ in range(5)) == 5
    budget.reconfigure(RetryBudgetConfig(ratio=0.0, min_per_second=2.0))
    assert sum(budget.withdraw(1.0) for _ in range(50)) == 10
    budget.reconfigure(RetryBudgetConfig(ratio=0.0, min_per_second=0.0))
    budget.reconfigure(RetryBudgetConfig(ratio=0.0, min_per_second=1.0))
    assert not budget.withdraw(1.0)
    assert budget.withdraw(2.0)


def test_pushback_can_say_never() -> None:
    assert retries().next_delay(failure(UNAVAILABLE), NEVER, 0.0) is None


def test_the_throttle_of_the_example() -> None:
    """maxTokens 10, tokenRatio 0.1: the sixth failure is not retried, before that all are."""
    throttle = RetryThrottle(RetryThrottling(10, 0.1))
    outcomes = [
        retries(throttle=throttle).next_delay(failure(UNAVAILABLE), NONE, 0.0) for _ in range(6)
    ]
    assert [delay is not None for delay in outcomes] == [True] * 4 + [False] * 2
    # 5 − 1 tokens; back over the threshold of 5 after eleven successes.
    for _ in range(10):
        throttle.on_success()
    assert throttle.tokens == pytest.approx(5.0)
    assert retries(throttle=throttle).next_delay(failure(INTERNAL), NONE, 0.0) is None
    throttle.on_success()
    throttle.on_success()
    assert throttle.can_retry


def test_what_counts_against_the_throttle() -> None:
    throttle = RetryThrottle(RetryThrottling(10, 0.1))
    retries(throttle=throttle).next_delay(failure(INTERNAL), NONE, 0.0)
    assert throttle.tokens == 10
    retries(throttle=throttle).next_delay(failure(INTERNAL), NEVER, 0.0)
    assert throttle.tokens == 9
    retries(throttle=throttle).next_delay(failure(UNAVAILABLE), NEVER, 0.0)
    assert throttle.tokens == 8


@given(st.lists(st.booleans(), max_size=200), st.floats(0.5, 1000), st.floats(0.001, 2))
def test_tokens_stay_in_their_range(outcomes: list[bool], most: float, ratio: float) -> None:
    throttle = RetryThrottle(RetryThrottling(most, ratio))
    for success in outcomes:
        throttle.on_success() if success else throttle.on_failure()
        assert 0 <= throttle.tokens <= most


def test_a_budget_lets_a_fifth_of_the_calls_be_retried() -> None:
    budget = RetryBudget(RetryBudgetConfig(ratio=0.2, min_per_second=0.0))
    granted = 0
    for number in range(1000):
        now = number / 1000
        budget.deposit(now)
        granted += budget.withdraw(now)
    assert granted == 199  # a fifth, less what expires meanwhile


def test_a_budget_has_a_reserve_for_a_service_with_few_calls() -> None:
    budget = RetryBudget(RetryBudgetConfig(ratio=0.0, min_per_second=1.0))
    assert sum(budget.withdraw(100.0) for _ in range(50)) == 10
    assert sum(budget.withdraw(103.0) for _ in range(50)) == 3
    assert sum(budget.withdraw(1000.0) for _ in range(50)) == 10


@given(st.lists(st.tuples(st.floats(0, 0.5), st.booleans()), max_size=300))
def test_a_budget_never_grants_more_than_was_earned(steps: list[tuple[float, bool]]) -> None:
    budget, now, calls, granted = RetryBudget(RetryBudgetConfig(0.3, 2.0)), 0.0, 0, 0
    for passed, retry in steps:
        now += passed
        if retry:
            granted += budget.withdraw(now)
        else:
            calls += 1
            budget.deposit(now)
    assert granted <= calls * 0.3 + 20 + now * 2 + 1
