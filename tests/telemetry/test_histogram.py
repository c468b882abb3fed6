"""Sorting many values at once gives what sorting each would."""

from __future__ import annotations

import math
import sys
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshtrio.telemetry.metrics.histogram import LATENCY, SIZE, Histogram

VALUES = st.lists(st.one_of(st.floats(0, 1000), st.sampled_from(LATENCY)))


def one_by_one(bounds: tuple[float, ...], values: list[float]) -> list[int]:
    counts = [0] * (len(bounds) + 1)
    for value in values:
        counts[next((n for n, bound in enumerate(bounds) if value <= bound), len(bounds))] += 1
    return counts


@given(st.lists(VALUES, max_size=4))
def test_each_value_counts_to_the_first_bound_it_does_not_pass(batches: list[list[float]]) -> None:
    histogram = Histogram(LATENCY)
    for batch in batches:
        histogram.waiting.extend(batch)
        histogram.sort()
    values = [value for batch in batches for value in batch]
    assert histogram.counts == one_by_one(LATENCY, values)
    assert histogram.total == pytest.approx(math.fsum(values))
    assert histogram.waiting == []


def test_sorting_in_another_thread_loses_and_doubles_nothing() -> None:
    """As with a scrape that prometheus_client's own server answers."""
    histogram, done = Histogram(LATENCY), threading.Event()

    def scrape() -> None:
        while not done.is_set():
            histogram.sort()

    thread, interval, count = threading.Thread(target=scrape), sys.getswitchinterval(), 200_000
    sys.setswitchinterval(1e-6)
    try:
        thread.start()
        for _ in range(count):
            histogram.waiting.append(1.0)
            if len(histogram.waiting) >= 256:
                histogram.sort()
    finally:
        sys.setswitchinterval(interval)
        done.set()
        thread.join()
    histogram.sort()
    assert (sum(histogram.counts), histogram.total) == (count, count)
    assert histogram.counts[LATENCY.index(1.0)] == count


def test_the_bounds_are_those_of_the_grfc() -> None:
    assert len(LATENCY) == 41
    assert LATENCY[:3] == (0, 0.00001, 0.00005)
    assert LATENCY[-1] == 100
    assert (0, 1024, 2048, 4096, *(4**n for n in range(7, 17))) == SIZE
