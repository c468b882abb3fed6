"""Balancing: what each policy promises, over any list of endpoints."""

from __future__ import annotations

from collections import Counter
from random import Random

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meshtrio.client.load_balancing.policies import (
    Balancer,
    LeastRequest,
    PickFirst,
    RingHash,
    RoundRobin,
    stable_hash,
)


@attrs.define(eq=False)
class Place:
    stable_id: str
    weight: int = 1
    in_flight: int = 0
    is_ready: bool = True
    last_pick: int = 0


def places(count: int, **values: int) -> list[Place]:
    return [Place(f"p{number}", **values) for number in range(count)]


def picked(balancer: Balancer[Place], ready: list[Place], times: int) -> Counter[str]:
    return Counter(balancer.pick(ready, None).stable_id for _ in range(times))


def test_pick_first_stays_with_the_first() -> None:
    assert picked(PickFirst(), places(3), 10) == {"p0": 10}


def test_round_robin_is_even_and_takes_new_ones_at_once() -> None:
    balancer: RoundRobin[Place] = RoundRobin()
    assert set(picked(balancer, places(3), 9).values()) == {3}
    assert set(picked(balancer, places(5), 10).values()) == {2}
    assert picked(balancer, places(1), 3) == {"p0": 3}


def test_least_request_evens_out_what_is_in_flight() -> None:
    balancer: LeastRequest[Place] = LeastRequest(Random(1))
    ready = places(10)
    for _ in range(1000):
        balancer.pick(ready, None).in_flight += 1
    loads = [place.in_flight for place in ready]
    # Two choices: the fullest is within a few of the mean, where one choice is off by tens.
    assert max(loads) - 100 <= 5


def test_least_request_of_two_is_exact() -> None:
    balancer: LeastRequest[Place] = LeastRequest(Random(1))
    ready = places(2)
    for _ in range(100):
        balancer.pick(ready, None).in_flight += 1
        assert abs(ready[0].in_flight - ready[1].in_flight) <= 1


def test_least_request_spreads_calls_in_a_row_evenly() -> None:
    balancer: LeastRequest[Place] = LeastRequest(Random(1))
    assert picked(balancer, places(2), 20) == {"p0": 10, "p1": 10}
    ready = places(10)
    counts = picked(balancer, ready, 1000)
    assert min(counts.values()) > 80
    ready = [*ready, Place("new")]
    assert balancer.pick(ready[-2:], None).stable_id == "new"
    assert picked(balancer, ready, 1100)["new"] < 130


@pytest.mark.parametrize("choices", [2, 4])
def test_least_request_honours_weights(choices: int) -> None:
    balancer: LeastRequest[Place] = LeastRequest(Random(1), choices)
    light, heavy = Place("light"), Place("heavy", weight=4)
    ready = [light, heavy]
    # In proportion while nothing is in flight, and by what is.
    idle = picked(balancer, ready, 5000)
    assert 3.2 < idle["heavy"] / idle["light"] < 4.8
    for _ in range(1000):
        balancer.pick(ready, None).in_flight += 1
    assert 3.5 < heavy.in_flight / light.in_flight < 4.5


@given(st.lists(st.integers(1, 9), min_size=1, max_size=20), st.integers(2, 5), st.integers())
def test_least_request_takes_any_weights(weights: list[int], choices: int, seed: int) -> None:
    ready = [Place(str(number), weight) for number, weight in enumerate(weights)]
    balancer: LeastRequest[Place] = LeastRequest(Random(seed), choices)
    for _ in range(50):
        assert balancer.pick(ready, None) in ready


def ring(listed: list[Place]) -> RingHash[Place]:
    made: RingHash[Place] = RingHash(Random(1))
    made.update_endpoints(listed)
    return made


KEYS = [f"user-{number}" for number in range(2000)]


@given(st.integers(2, 30), st.integers(0, 29))
@settings(max_examples=25)
def test_a_ring_moves_only_the_keys_of_the_endpoint_that_is_gone(count: int, gone: int) -> None:
    listed = places(count)
    leaving = listed[gone % count]
    before, after = ring(listed), ring([place for place in listed if place is not leaving])
    for key in KEYS:
        owner = before.pick(listed, key)
        if owner is not leaving:
            assert after.pick(listed, key).stable_id == owner.stable_id


@given(st.integers(2, 30))
@settings(max_examples=20)
def test_a_new_endpoint_takes_about_its_share(count: int) -> None:
    listed = places(count)
    before, after = ring(listed[:-1]), ring(listed)
    moved = sum(before.pick(listed, k) is not after.pick(listed, k) for k in KEYS)
    # Its own share is 1 of `count`; 128 points have it exact to about a tenth.
    assert moved <= 1.4 * len(KEYS) / count


def test_a_ring_honours_weights_and_spreads() -> None:
    listed = [Place("a"), Place("b"), Place("c", weight=2)]
    shares = Counter(ring(listed).pick(listed, key).stable_id for key in KEYS)
    assert 0.42 < shares["c"] / len(KEYS) < 0.58
    assert min(shares.values()) > 0.12 * len(KEYS)


def test_a_ring_goes_on_to_the_next_that_is_ready() -> None:
    listed = places(5)
    made = ring(listed)
    owner = made.pick(listed, "key")
    owner.is_ready = False
    ready = [place for place in listed if place.is_ready]
    second = made.pick(ready, "key")
    assert second is not owner
    owner.is_ready = True
    assert made.pick(listed, "key") is owner


def test_a_ring_sends_calls_without_a_key_anywhere() -> None:
    assert len(picked(ring(listed := places(4)), listed, 200)) == 4  # type: ignore[arg-type]


def test_hashes_are_the_same_everywhere() -> None:
    assert stable_hash("plugin.echo") == 0x75DD166CAEDAACB4
