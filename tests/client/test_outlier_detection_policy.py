"""Outlier detection: the algorithms of gRFC A50, and the cap over any history."""

from __future__ import annotations

from random import Random

from hypothesis import given
from hypothesis import strategies as st

from meshtrio.client.load_balancing.outlier_detection import EjectedHost, OutlierDetector
from meshtrio.grpc.outlier_detection import (
    DetectionMethod,
    Ejection,
    FailurePercentage,
    OutlierDetection,
    SuccessRate,
    UnenforcedReason,
)

HALF = OutlierDetection(max_ejection_percent=50, failure_percentage=FailurePercentage())


def outliers(
    config: OutlierDetection, count: int = 5, found: list[Ejection] | None = None
) -> OutlierDetector:
    made = OutlierDetector(config, Random(0), [].append if found is None else found.append)
    made.update_endpoints(str(number) for number in range(count))
    return made


def record(made: OutlierDetector, name: str, good: int, bad: int, now: float = 0.0) -> None:
    for number in range(good + bad):
        made.record(name, success=number < good, now=now)


def test_failure_percentage_ejects_who_fails_more_than_the_threshold() -> None:
    made = outliers(HALF)
    record(made, "0", good=14, bad=86)
    record(made, "1", good=15, bad=85)
    record(made, "2", good=0, bad=49)
    made.end_interval(10.0)
    assert made.ejected == {"0"}


def test_failure_percentage_judges_nobody_among_few() -> None:
    made = outliers(HALF, count=4)
    record(made, "0", good=0, bad=100)
    made.end_interval(10.0)
    assert not made.ejected


def test_success_rate_ejects_who_is_far_below_the_others() -> None:
    made = outliers(OutlierDetection(max_ejection_percent=50, success_rate=SuccessRate()))
    for name in "0123":
        record(made, name, good=99, bad=1)
    record(made, "4", good=80, bad=20)
    made.end_interval(10.0)
    assert made.ejected == {"4"}


def test_success_rate_leaves_those_alone_that_fail_alike() -> None:
    made = outliers(OutlierDetection(max_ejection_percent=50, success_rate=SuccessRate()))
    for name in "01234":
        record(made, name, good=50, bad=50)
    made.end_interval(10.0)
    assert not made.ejected


def test_success_rate_needs_enough_hosts_with_enough_calls() -> None:
    made = outliers(OutlierDetection(max_ejection_percent=50, success_rate=SuccessRate()))
    for name in "012":
        record(made, name, good=100, bad=0)
    record(made, "3", good=0, bad=100)
    record(made, "4", good=99, bad=0)
    made.end_interval(10.0)
    assert not made.ejected


def test_an_interval_is_judged_by_itself() -> None:
    made = outliers(HALF)
    record(made, "0", good=0, bad=40)
    made.end_interval(10.0)
    record(made, "0", good=0, bad=40)
    made.end_interval(20.0)
    assert not made.ejected


def test_ejections_last_longer_each_time_and_that_is_forgotten() -> None:
    made = outliers(HALF)

    def eject(now: float) -> None:
        record(made, "0", good=0, bad=100)
        made.end_interval(now)
        assert made.ejected == {"0"}

    eject(0.0)
    made.end_interval(30.0)
    assert made.ejected == {"0"}
    made.end_interval(30.1)
    assert not made.ejected
    eject(40.0)
    made.end_interval(100.0)
    assert made.ejected == {"0"}
    made.end_interval(100.1)
    assert not made.ejected
    # Two quiet intervals, and it starts at the beginning again.
    made.end_interval(110.0)
    made.end_interval(120.0)
    eject(130.0)
    made.end_interval(160.1)
    assert not made.ejected


def test_the_longest_ejection_is_bounded() -> None:
    made = outliers(OutlierDetection(consecutive_failures=1, max_ejection_time=60.0))
    now = 0.0
    for _ in range(5):
        record(made, "0", good=0, bad=1, now=now)
        assert made.ejected == {"0"}
        now += 60.1
        made.end_interval(now)
        assert not made.ejected


def test_failures_in_a_row_eject_at_once() -> None:
    made = outliers(OutlierDetection(consecutive_failures=3), count=2)
    assert not made.record("0", success=False, now=1.0)
    assert not made.record("0", success=False, now=1.0)
    assert not made.record("0", success=True, now=1.0)
    assert not made.record("0", success=False, now=1.0)
    assert not made.record("0", success=False, now=1.0)
    assert made.record("0", success=False, now=1.0)
    assert made.ejected == {"0"}


def test_the_only_one_is_never_ejected() -> None:
    made = outliers(OutlierDetection(consecutive_failures=1, max_ejection_percent=100), count=1)
    assert not made.record("0", success=False, now=1.0)
    assert not made.ejected


def test_who_is_gone_is_forgotten() -> None:
    made = outliers(OutlierDetection(consecutive_failures=1), count=2)
    made.record("0", success=False, now=1.0)
    made.update_endpoints(["1", "2"])
    assert not made.ejected
    assert not made.record("0", success=False, now=1.0)


HISTORY = st.lists(
    st.one_of(
        st.tuples(st.integers(0, 11), st.integers(0, 60), st.integers(0, 60)),
        st.floats(0.1, 100.0),
        st.integers(1, 12),
    ),
    max_size=60,
)


@given(HISTORY, st.integers(0, 100), st.integers())
def test_never_more_are_ejected_than_may_be(history: list[object], percent: int, seed: int) -> None:
    config = OutlierDetection(
        max_ejection_percent=percent,
        success_rate=SuccessRate(minimum_hosts=2, request_volume=10),
        failure_percentage=FailurePercentage(threshold=30, minimum_hosts=1, request_volume=10),
        consecutive_failures=20,
    )
    made, now, count = OutlierDetector(config, Random(seed), [].append), 0.0, 5
    made.update_endpoints(map(str, range(count)))
    for step in history:
        ejected_before = len(made.ejected)
        if isinstance(step, tuple):
            name, good, bad = step
            record(made, str(name), good, bad, now)
        elif isinstance(step, float):
            now += step
            made.end_interval(now)
        else:
            assert isinstance(step, int)
            count = step
            made.update_endpoints(map(str, range(count)))
            continue
        allowed = min(max(count * percent // 100, 1), count - 1)
        assert len(made.ejected) <= max(allowed, ejected_before)


def test_each_verdict_is_told_once_with_why_it_had_no_consequence() -> None:
    ejections: list[Ejection] = []
    rule = FailurePercentage(minimum_hosts=1)
    made = outliers(
        OutlierDetection(max_ejection_percent=20, failure_percentage=rule), found=ejections
    )
    record(made, "0", good=0, bad=100)
    record(made, "1", good=0, bad=100)
    made.end_interval(10.0)
    found = DetectionMethod.FAILURE_PERCENTAGE
    assert ejections == [
        (found, None),
        (found, UnenforcedReason.MAX_EJECTION_OVERFLOW),
    ]


def test_a_lot_that_was_drawn_is_a_reason() -> None:
    ejections: list[Ejection] = []
    rule = FailurePercentage(minimum_hosts=1, enforcement_percentage=0)
    made = outliers(OutlierDetection(failure_percentage=rule), found=ejections)
    record(made, "0", good=0, bad=100)
    made.end_interval(10.0)
    assert ejections == [
        (DetectionMethod.FAILURE_PERCENTAGE, UnenforcedReason.ENFORCEMENT_PERCENTAGE)
    ]


def test_a_row_of_failures_is_one_verdict_however_long_it_is() -> None:
    ejections: list[Ejection] = []
    made = outliers(
        OutlierDetection(max_ejection_percent=20, consecutive_failures=3), found=ejections
    )
    record(made, "0", good=0, bad=10)
    record(made, "1", good=0, bad=10)
    found = DetectionMethod.CONSECUTIVE_FAILURES
    assert ejections == [
        (found, None),
        (found, UnenforcedReason.MAX_EJECTION_OVERFLOW),
    ]


def test_it_says_why_and_how_long_an_endpoint_is_ejected() -> None:
    made = outliers(OutlierDetection(consecutive_failures=1, max_ejection_time=40.0))
    assert (made.find_ejection("0"), made.count_ejections("0")) == (None, 0)
    record(made, "0", good=0, bad=1, now=5.0)
    found = made.find_ejection("0")
    assert found == EjectedHost(5.0, 35.0, DetectionMethod.CONSECUTIVE_FAILURES)
    made.end_interval(35.1)
    assert made.find_ejection("0") is None
    record(made, "0", good=0, bad=1, now=50.0)
    found = made.find_ejection("0")
    assert found == EjectedHost(50.0, 90.0, DetectionMethod.CONSECUTIVE_FAILURES)
    assert made.count_ejections("0") == 2
    assert (made.find_ejection("unknown"), made.count_ejections("unknown")) == (None, 0)
    made = outliers(HALF)
    record(made, "0", good=0, bad=100)
    made.end_interval(10.0)
    found = made.find_ejection("0")
    assert found is not None
    assert found.rule is DetectionMethod.FAILURE_PERCENTAGE
