"""Which of the endpoints that are ready takes the next call.

Each policy is told of the endpoints that are listed by `update`, and is given those that are ready,
of the best priority there is, at each `pick`. Sources: gRFC A48 (least request), A42 (ring hash).
"""

from __future__ import annotations

import bisect
import hashlib
import math
from collections.abc import Sequence
from itertools import accumulate
from random import Random
from typing import Generic, Protocol, TypeVar

import attrs


class Candidate(Protocol):
    """What balancing asks of an endpoint."""

    last_pick: int
    """The policy's own: when it was picked last."""

    @property
    def stable_id(self) -> str:
        """The same for whoever takes an endpoint's place: a plugin's instance, started again."""

    @property
    def weight(self) -> int: ...

    @property
    def in_flight(self) -> int:
        """Calls it has just now, of this process."""

    @property
    def is_ready(self) -> bool: ...


C = TypeVar("C", bound=Candidate)

_ASSUMED_MIN_ENDPOINTS = 8
_MAX_DRAWS = 4
"""Tries to draw another one than before; by weight, one may have nearly all of it."""


class Balancer(Protocol[C]):
    """A policy, with what it remembers for one channel."""

    def update_endpoints(self, endpoints: Sequence[C]) -> None:
        """The endpoints there are now, ready or not."""

    def pick(self, ready: Sequence[C], hash_key: str | None) -> C:
        """Choose from `ready`, all that are, at least one; `key` is what sticky calls go by.

        The same object is to be passed for as long as it is the same list.
        """


class PickFirst(Generic[C]):
    """The first in the order of the list, for as long as it is ready."""

    def update_endpoints(self, endpoints: Sequence[C]) -> None:
        pass

    def pick(self, ready: Sequence[C], hash_key: str | None) -> C:
        return ready[0]


class RoundRobin(Generic[C]):
    """Takes them in turn, so that any number of equal calls in a row is spread evenly."""

    def __init__(self) -> None:
        self._last_index = 0

    def update_endpoints(self, endpoints: Sequence[C]) -> None:
        pass

    def pick(self, ready: Sequence[C], hash_key: str | None) -> C:
        self._last_index = (self._last_index + 1) % len(ready)
        return ready[self._last_index]


class LeastRequest(Generic[C]):
    """The least busy of a few drawn by lot ("power of two choices"), for its weight.

    Those of twice the weight are drawn twice as often and count as half as busy. Of two that are
    as busy, the one that waited longer is taken, so that calls in a row are spread evenly.
    """

    def __init__(self, rng: Random, choice_count: int = 2) -> None:
        """`rng` draws; `choices` is at least 2."""
        self._rng = rng
        self._choice_count = choice_count
        self._pick_count = 0
        self._cached_ready: Sequence[C] = ()
        self._cached_weights: list[int] | None = None

    def update_endpoints(self, endpoints: Sequence[C]) -> None:
        pass

    def pick(self, ready: Sequence[C], hash_key: str | None) -> C:
        count, sums = len(ready), self._cumulative_weights(ready)
        if count == 1:
            return ready[0]
        if sums is None and self._choice_count == 2:
            return self._pick_of_two(ready, count)
        drawn = self._draw(sums, count)
        best = ready[drawn]
        for _ in range(min(self._choice_count, count) - 1):
            drawn = self._draw_other(sums, count, drawn)
            other = ready[drawn]
            load = other.in_flight * best.weight - best.in_flight * other.weight
            if load < 0 or (load == 0 and sums is None and other.last_pick < best.last_pick):
                best = other
        self._pick_count = best.last_pick = self._pick_count + 1
        return best

    def _pick_of_two(self, ready: Sequence[C], count: int) -> C:
        """The same as below for what nearly every call asks, in half the time."""
        rng = self._rng
        first = int(rng.random() * count)
        second = int(rng.random() * (count - 1))
        best, other = ready[first], ready[second + (second >= first)]
        load = other.in_flight - best.in_flight
        if load < 0 or (load == 0 and other.last_pick < best.last_pick):
            best = other
        self._pick_count = best.last_pick = self._pick_count + 1
        return best

    def _draw(self, cumulative_weights: list[int] | None, count: int) -> int:
        if cumulative_weights is None:
            return int(self._rng.random() * count)
        return bisect.bisect_right(
            cumulative_weights, int(self._rng.random() * cumulative_weights[-1])
        )

    def _draw_other(self, cumulative_weights: list[int] | None, count: int, drawn: int) -> int:
        if cumulative_weights is None:
            other = int(self._rng.random() * (count - 1))
            return other + (other >= drawn)
        other = drawn
        for _ in range(_MAX_DRAWS):
            other = self._draw(cumulative_weights, count)
            if other != drawn:
                break
        return other

    def _cumulative_weights(self, ready: Sequence[C]) -> list[int] | None:
        """The running sums of the weights, None where all are the same."""
        if self._cached_ready is not ready:
            weights = [candidate.weight for candidate in ready]
            alike = len(set(weights)) == 1
            self._cached_ready, self._cached_weights = (
                ready,
                None if alike else [*accumulate(weights)],
            )
        return self._cached_weights


@attrs.frozen
class RingSize:
    """Bounds on the points of a ring, over all endpoints."""

    minimum: int = 1024
    """For the fewest endpoints it is worth having a ring for, which are taken to be eight."""
    maximum: int = 4096


class RingHash(Generic[C]):
    """Calls of one key go to one endpoint, and few of them elsewhere when the list changes.

    Each endpoint has points on a ring, by its weight; a key belongs to the next point, and goes on
    to the one after where that endpoint is not ready. A call without a key goes anywhere.

    Envoy shares a ring of one size out among whoever there is, so that all keys move a little when
    one comes or goes. Here an endpoint has the same points whoever the others are, as far as the
    ring's largest size allows.
    """

    def __init__(self, rng: Random, size: RingSize | None = None) -> None:
        self._rng = rng
        self._size = size or RingSize()
        self._ring_points: list[int] = []
        self._ring_owners: list[C] = []

    def update_endpoints(self, endpoints: Sequence[C]) -> None:
        each = self._points_per_weight(sum(candidate.weight for candidate in endpoints))
        found = [
            (stable_hash(f"{candidate.stable_id}_{number}"), candidate)
            for candidate in endpoints
            for number in range(candidate.weight * each)
        ]
        found.sort(key=lambda point: point[0])
        self._ring_points = [point for point, _ in found]
        self._ring_owners = [owner for _, owner in found]

    def _points_per_weight(self, weight: int) -> int:
        each = max(
            1 << math.ceil(math.log2(max(self._size.minimum / _ASSUMED_MIN_ENDPOINTS, 1))), 1
        )
        while each > 1 and each * weight > self._size.maximum:
            each //= 2
        return each

    def pick(self, ready: Sequence[C], hash_key: str | None) -> C:
        if hash_key is None or not self._ring_points:
            return ready[int(self._rng.random() * len(ready))]
        start = bisect.bisect_left(self._ring_points, stable_hash(hash_key))
        count = len(self._ring_points)
        for step in range(count):
            owner = self._ring_owners[(start + step) % count]
            if owner.is_ready:
                return owner
        return ready[0]


def stable_hash(text: str) -> int:
    """64 bits that look random and are the same in every process."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")
