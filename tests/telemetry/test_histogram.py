"""Sorting many values at once gives what sorting each would; between threads nothing is lost."""

from __future__ import annotations

import math
import sys
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshtrio.telemetry.metric_families import LATENCY_BUCKETS, SIZE_BUCKETS, Histogram
from meshtrio.telemetry.metrics.call_recorder import (
    DURATION,
    FLUSH_THRESHOLD,
    SENT_SIZE,
    CallRecorder,
)

VALUES = st.lists(st.one_of(st.floats(0, 1000), st.sampled_from(LATENCY_BUCKETS)))


def one_by_one(bounds: tuple[float, ...], values: list[float]) -> list[int]:
    counts = [0] * (len(bounds) + 1)
    for value in values:
        counts[next((n for n, bound in enumerate(bounds) if value <= bound), len(bounds))] += 1
    return counts


@given(st.lists(VALUES, max_size=4))
def test_each_value_counts_to_the_first_bound_it_does_not_pass(batches: list[list[float]]) -> None:
    histogram = Histogram(LATENCY_BUCKETS)
    for batch in batches:
        histogram.record(batch[:])
    values = [value for batch in batches for value in batch]
    assert histogram.counts == one_by_one(LATENCY_BUCKETS, values)
    assert histogram.sum == pytest.approx(math.fsum(values))


CALLS = st.lists(st.tuples(st.integers(-1, 20), st.floats(0, 200), st.integers(0, 10**10)))


@given(CALLS)
def test_calls_are_told_by_status(calls: list[tuple[int, float, int]]) -> None:
    ended = CallRecorder((), [DURATION, SENT_SIZE])
    for call in calls:
        ended.pending += call
    found = ended.histograms_by_status()
    expected: dict[int, list[tuple[float, int]]] = {}
    for code, *figures in calls:
        # What gRPC does not list is UNKNOWN.
        expected.setdefault(code if 0 <= code <= 16 else 2, []).append(tuple(figures))
    assert found.keys() == expected.keys()
    for code, rows in expected.items():
        for bounds, values, histogram in zip(
            (LATENCY_BUCKETS, SIZE_BUCKETS), zip(*rows, strict=True), found[code], strict=True
        ):
            assert histogram.counts == one_by_one(bounds, list(values))
            assert histogram.sum == pytest.approx(math.fsum(values))


def test_asking_in_another_thread_loses_and_doubles_nothing() -> None:
    """As with a scrape that prometheus_client's own server answers."""
    ended, done = CallRecorder((), [DURATION]), threading.Event()

    def scrape() -> None:
        while not done.is_set():
            ended.histograms_by_status()

    thread, interval, count = threading.Thread(target=scrape), sys.getswitchinterval(), 200_000
    sys.setswitchinterval(1e-6)
    try:
        thread.start()
        for number in range(count):
            ended.pending += (number % 2, 1.0)
            if len(ended.pending) >= FLUSH_THRESHOLD:
                ended.flush()
    finally:
        sys.setswitchinterval(interval)
        done.set()
        thread.join()
    for (histogram,) in ended.histograms_by_status().values():
        assert (sum(histogram.counts), histogram.sum) == (count // 2, count // 2)
        assert histogram.counts[LATENCY_BUCKETS.index(1.0)] == count // 2


def test_the_bounds_are_those_of_the_grfc() -> None:
    assert len(LATENCY_BUCKETS) == 41
    assert LATENCY_BUCKETS[:3] == (0, 0.00001, 0.00005)
    assert LATENCY_BUCKETS[-1] == 100
    assert (0, 1024, 2048, 4096, *(4**n for n in range(7, 17))) == SIZE_BUCKETS
