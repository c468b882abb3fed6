"""Counts of calls by method, and quantiles of their latencies."""

from __future__ import annotations

import math
from collections import Counter

import pytest

from meshtrio.grpc.status import StatusCode
from meshtrio.rpc.method_load import (
    BUCKET_COUNT,
    MethodTracker,
    compute_quantiles,
    find_bucket,
)
from meshtrio.rpc.stats import LoadRecorder

UNIMPLEMENTED = StatusCode.UNIMPLEMENTED.value


@pytest.mark.parametrize(
    ("seconds", "bucket"),
    [
        (0.0, 0),
        (-1.0, 0),
        (10e-6, 0),
        (10.1e-6, 1),
        (20e-6, 4),
        (20.1e-6, 5),
        (10e-6 * 2**10, 40),
        (1e9, BUCKET_COUNT - 1),
        (math.inf, BUCKET_COUNT - 1),
    ],
)
def test_buckets(seconds: float, bucket: int) -> None:
    assert find_bucket(seconds) == bucket


@pytest.mark.parametrize("scale", [1e-6, 1e-3, 1.0])
def test_quantiles_are_within_the_width_of_a_bucket(scale: float) -> None:
    durations = [scale * (1 + number / 100) for number in range(1000)]
    found = compute_quantiles(Counter(map(find_bucket, durations)), (0.5, 0.95, 0.99))
    for quantile, value in zip((0.5, 0.95, 0.99), found, strict=True):
        exact = durations[int(quantile * 1000) - 1]
        assert value is not None
        assert value == pytest.approx(exact, rel=0.19, abs=10e-6)


def test_quantiles_of_the_sum_are_those_of_all_calls() -> None:
    """This is why latencies are counted in buckets."""
    fast, slow = {find_bucket(0.001): 90}, {find_bucket(1.0): 10}
    assert compute_quantiles({}, (0.5, 0.99)) == [None, None]
    p50, p95 = compute_quantiles(fast | slow, (0.5, 0.95))
    assert p50 == pytest.approx(0.001, rel=0.19)
    assert p95 == pytest.approx(1.0, rel=0.19)


def taken(tracker: MethodTracker[str]) -> dict[str, tuple[int, int, dict[int, int]]]:
    """Started, in flight and ended, by method."""
    return {
        method: (load.started, load.in_flight + load.earlier, load.ended)
        for method, load in tracker.take()
    }


def test_counts_start_anew_and_calls_in_flight_go_on() -> None:
    tracker = MethodTracker("other")
    first, _ = (tracker.start_call("m", is_known=True) for _ in range(2))
    assert taken(tracker) == {"m": (2, 2, {})}
    first.record(0, 0.5)
    assert taken(tracker) == {"m": (0, 1, {0: 1})}
    assert taken(tracker) == {"m": (0, 1, {})}


def test_methods_that_there_are_not_are_one() -> None:
    tracker = MethodTracker("other")
    for number in range(50):
        tracker.start_call(f"no/{number}").record(UNIMPLEMENTED, 0.1)
    tracker.start_call("yes").record(0, 0.1)
    assert taken(tracker) == {"yes": (1, 0, {0: 1}), "other": (50, 0, {UNIMPLEMENTED: 50})}
    # Once a method is known, it stays so.
    tracker.start_call("yes").record(UNIMPLEMENTED, 0.1)
    assert taken(tracker) == {"yes": (1, 0, {UNIMPLEMENTED: 1})}


def test_a_method_may_be_called_for_long_before_it_is_known() -> None:
    tracker = MethodTracker("other")
    call = tracker.start_call("stream")
    assert taken(tracker) == {}
    assert taken(tracker) == {"stream": (1, 1, {})}
    call.record(0, 3.0)
    assert taken(tracker) == {"stream": (0, 0, {0: 1})}


def test_the_number_of_methods_is_bounded() -> None:
    tracker = MethodTracker("other", 2)
    for number in range(10):
        tracker.start_call(f"m{number}", is_known=True).record(0, 0.1)
    assert {key: value[0] for key, value in taken(tracker).items()} == {
        "m0": 1,
        "m1": 1,
        "other": 8,
    }
    assert len(tracker) == 2


def test_idle_methods_are_dropped() -> None:
    now = 100.0
    tracker = MethodTracker("other", 1, max_idle_time=60.0, now=lambda: now)
    tracker.start_call("a").record(0, 0.1)
    busy = MethodTracker("other", max_idle_time=60.0, now=lambda: now)
    busy.start_call("b", is_known=True)
    assert (taken(tracker).keys(), taken(busy).keys()) == ({"a"}, {"b"})
    now += 59.0
    assert taken(tracker) == {"a": (0, 0, {})}
    now += 2.0
    assert (taken(tracker), taken(busy)) == ({}, {"b": (0, 1, {})})
    tracker.start_call("c").record(0, 0.1)
    assert taken(tracker).keys() == {"c"}


def test_statuses_that_there_are_not_are_unknown() -> None:
    tracker = MethodTracker("other")
    for code in (-1, 99, 2**31):
        tracker.start_call("m").record(code, 0.1)
    assert taken(tracker) == {"m": (3, 0, {2: 3})}


def test_each_watcher_of_a_server_has_counts_of_its_own() -> None:
    running = ["/a.B/Old", "/grpc.health.v1.Health/Watch"]
    recorder = LoadRecorder(lambda: running)
    unwatched = recorder.start_call("/a.B/Old")
    assert unwatched == 0.0
    with recorder.watch_methods() as first:
        during = recorder.start_call("/a.B/New")
        running.append("/a.B/New")
        with recorder.watch_methods() as second:
            assert taken(second) == {"/a.B/Old": (0, 1, {}), "/a.B/New": (0, 1, {})}
            recorder.end_call(during, "/a.B/New", None)
            recorder.end_call(unwatched, "/a.B/Old", (14, ""))
            ended = {"/a.B/Old": (0, 0, {14: 1}), "/a.B/New": (0, 0, {0: 1})}
            assert taken(second) == ended
        assert taken(first) == ended | {"/a.B/New": (1, 0, {0: 1})}
        recorder.count_rejected("/a.B/None", UNIMPLEMENTED, has_handler=False)
        recorder.count_rejected("/a.B/New", 7, has_handler=True)
        recorder.count_rejected("/grpc.health.v1.Health/Nope", 12, has_handler=False)
        assert taken(first) == {
            "/a.B/Old": (0, 0, {}),
            "/a.B/New": (1, 0, {7: 1}),
            "other": (1, 0, {UNIMPLEMENTED: 1}),
        }
    assert recorder.start_call("/a.B/New") == 0.0
    assert (recorder.started, recorder.ended, recorder.failed) == (3, 2, 1)
