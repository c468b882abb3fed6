"""Backoff: the curve, its cap and its jitter."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshtrio.util.backoff import Backoff


@pytest.mark.parametrize(
    ("failures", "expected"),
    [(0, 1.0), (1, 1.0), (2, 2.0), (3, 4.0), (4, 5.0), (10_000, 5.0)],
)
def test_the_curve_without_jitter(failures: int, expected: float) -> None:
    backoff = Backoff(initial=1.0, maximum=5.0, multiplier=2.0, jitter=0.0)
    assert backoff.delay(failures, Random(0)) == expected


@given(st.integers(1, 200), st.floats(0, 1), st.integers())
def test_jitter_stays_within_its_fraction(failures: int, jitter: float, seed: int) -> None:
    plain = Backoff(jitter=0.0).delay(failures, Random(seed))
    varied = Backoff(jitter=jitter).delay(failures, Random(seed))
    assert plain * (1 - jitter) <= varied <= plain * (1 + jitter)


def test_jitter_keeps_plugins_apart() -> None:
    rng = Random(1)
    assert len({Backoff(jitter=0.2).delay(1, rng) for _ in range(10)}) == 10


@pytest.mark.parametrize(
    "wrong", [{"initial": -1}, {"maximum": -1}, {"multiplier": 0.5}, {"jitter": 1.5}]
)
def test_values_that_make_no_sense_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Backoff(**wrong)
