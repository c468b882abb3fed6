"""Sorting many values at once gives what sorting each would."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshtrio.telemetry.histogram import LATENCY, SIZE, Histogram

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


def test_the_bounds_are_those_of_the_grfc() -> None:
    assert len(LATENCY) == 41
    assert LATENCY[:3] == (0, 0.00001, 0.00005)
    assert LATENCY[-1] == 100
    assert (0, 1024, 2048, 4096, *(4**n for n in range(7, 17))) == SIZE
