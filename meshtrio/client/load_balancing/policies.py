"""Balancing policies: which ready endpoint takes the next call.

`PriorityPolicy` has a policy for each priority. `update_endpoints` gives it the listed endpoints,
and `pick` those of them that are ready. Sources: gRFC A56 (priorities), A48 (least request), A42
(ring hash).
"""

from __future__ import annotations

import bisect
import hashlib
import math
from collections.abc import Callable, Iterable, Sequence
from itertools import accumulate
from random import Random
from typing import Any, Generic, Protocol, TypeVar

from meshtrio.grpc.service_config import LoadBalancingConfig, LoadBalancingPolicy


class Candidate(Protocol):
    """An endpoint, as policies see it."""

    last_pick: int
    """Sequence number of the last pick; owned by the policy."""

    priority: int
    """Priority of the endpoint; lower is better."""
    stable_id: str
    """Identity that outlives restarts: that of a plugin's instance, not of its process."""
    weight: int
    """Relative share of the calls."""

    @property
    def in_flight(self) -> int:
        """Number of calls of this process under way there."""

    @property
    def is_ready(self) -> bool:
        """Whether it can take calls."""


C = TypeVar("C", bound=Candidate)

_ASSUMED_MIN_ENDPOINTS = 8
"""Number of endpoints for which the minimum size of a ring is meant."""


class Balancer(Generic[C]):
    """A balancing policy with its state for one channel and priority."""

    def update_endpoints(self, endpoints: Sequence[C]) -> None:
        """Set the listed endpoints, ready or not, for policies that depend on them."""

    def pick(self, ready: Sequence[C], hash_key: str | None) -> C:
        """Choose an endpoint.

        Args:
            ready: All ready endpoints, at least one. The same object for as long as it is the same
                list, since policies cache by its identity.
            hash_key: Key of a sticky call, None for others.
        """
        raise NotImplementedError


class PickFirst(Balancer[C]):
    """Picks the first ready endpoint of the list."""

    def pick(self, ready: Sequence[C], hash_key: str | None) -> C:
        return ready[0]


class RoundRobin(Balancer[C]):
    """Picks endpoints in turn."""

    def __init__(self) -> None:
        self._last_index = 0

    def pick(self, ready: Sequence[C], hash_key: str | None) -> C:
        self._last_index = (self._last_index + 1) % len(ready)
        return ready[self._last_index]


class LeastRequest(Balancer[C]):
    """Picks the endpoint with the fewest calls of a few drawn at random (power of two choices).

    An endpoint of twice the weight is drawn twice as often, and its calls count half. Of two with
    equal load the one picked longer ago is taken, so that sequential calls are spread evenly.
    """

    def __init__(self, rng: Random, choice_count: int = 2) -> None:
        """`choice_count`: number of endpoints drawn for each pick, at least 2."""
        self._rng = rng
        self._choice_count = choice_count
        self._pick_count = 0
        self._cached_ready: Sequence[C] = ()
        self._weight_sums: list[int] = []
        """Running sums of the weights of `_cached_ready`."""
        self._is_weighted = False
        """Whether those weights differ."""

    def pick(self, ready: Sequence[C], hash_key: str | None) -> C:
        count = len(ready)
        if count == 1:
            return ready[0]
        if self._cached_ready is not ready:
            self._cached_ready = ready
            self._weight_sums = [*accumulate(candidate.weight for candidate in ready)]
            self._is_weighted = any(each.weight != ready[0].weight for each in ready)
        if not self._is_weighted and self._choice_count == 2:
            return self._pick_of_two(ready, count)
        drawn = self._draw()
        best = ready[drawn]
        for _ in range(min(self._choice_count, count) - 1):
            drawn = self._draw(other_than=drawn)
            other = ready[drawn]
            load = other.in_flight * best.weight - best.in_flight * other.weight
            is_older = not self._is_weighted and other.last_pick < best.last_pick
            if load < 0 or (load == 0 and is_older):
                best = other
        self._pick_count = best.last_pick = self._pick_count + 1
        return best

    def _pick_of_two(self, ready: Sequence[C], count: int) -> C:
        """Pick for equal weights and two choices, the common case, in half the time."""
        rng = self._rng
        first = int(rng.random() * count)
        second = int(rng.random() * (count - 1))
        best, other = ready[first], ready[second + (second >= first)]
        load = other.in_flight - best.in_flight
        if load < 0 or (load == 0 and other.last_pick < best.last_pick):
            best = other
        self._pick_count = best.last_pick = self._pick_count + 1
        return best

    def _draw(self, other_than: int | None = None) -> int:
        """Draw the index of an endpoint by weight; an excluded one has none."""
        sums = self._weight_sums
        begin = end = sums[-1]
        if other_than is not None:
            begin, end = sums[other_than - 1] if other_than else 0, sums[other_than]
        point = int(self._rng.random() * (sums[-1] - (end - begin)))
        return bisect.bisect_right(sums, point if point < begin else point + end - begin)


class RingHash(Balancer[C]):
    """Consistent hashing: calls with the same key go to the same endpoint.

    Each endpoint has points on a ring, in proportion to its weight. A key maps to the next point,
    or to a later one if that endpoint is not ready. A call without a key goes to any endpoint.

    Envoy divides a ring of fixed size among the endpoints, so that all keys move a little when the
    list changes. Here the points of an endpoint do not depend on the others, up to the ring's
    maximum size.
    """

    def __init__(self, rng: Random, size_range: tuple[int, int] = (1024, 4096)) -> None:
        """`size_range`: number of points of a ring of `_ASSUMED_MIN_ENDPOINTS`, and the maximum."""
        self._rng = rng
        self._size_range = size_range
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
        minimum, maximum = self._size_range
        each = 1 << math.ceil(math.log2(max(minimum / _ASSUMED_MIN_ENDPOINTS, 1)))
        while each > 1 and each * weight > maximum:
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
    """Hash a text to 64 bits, equally in all processes."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")


_BALANCERS: dict[LoadBalancingPolicy, Callable[[LoadBalancingConfig, Random], Balancer[Any]]] = {
    LoadBalancingPolicy.PICK_FIRST: lambda config, rng: PickFirst(),
    LoadBalancingPolicy.ROUND_ROBIN: lambda config, rng: RoundRobin(),
    LoadBalancingPolicy.RING_HASH: lambda config, rng: RingHash(rng, config.ring_size_range),
    LoadBalancingPolicy.LEAST_REQUEST: lambda config, rng: LeastRequest(rng, config.choice_count),
}


class PriorityPolicy(Generic[C]):
    """Keeps a balancer for each priority; calls go to the best one that has a ready endpoint."""

    def __init__(self, rng: Random, config: LoadBalancingConfig) -> None:
        self._rng = rng
        self._config = config
        self.ready: Sequence[C] = ()
        """Ready endpoints of the best priority that has any."""
        self.balancer: Balancer[C] = RoundRobin()
        """Picks among `ready`."""
        self.spill_over: Sequence[tuple[Balancer[C], Sequence[C]]] = ()
        """The ready endpoints of other priorities with their balancers, the best priority first:
        for calls that none of `ready` may take."""
        self._balancers: dict[int, Balancer[C]] = {}

    def update_endpoints(self, endpoints: Iterable[C]) -> None:
        """Set the listed endpoints."""
        by_priority: dict[int, list[C]] = {}
        for endpoint in endpoints:
            by_priority.setdefault(endpoint.priority, []).append(endpoint)
        make_balancer = _BALANCERS[self._config.policy]
        self._balancers = {
            priority: self._balancers.get(priority) or make_balancer(self._config, self._rng)
            for priority in by_priority
        }
        for priority, members in by_priority.items():
            self._balancers[priority].update_endpoints(members)

    def update_ready(self, endpoints: Iterable[C]) -> None:
        """Follow changes of readiness."""
        ready = [endpoint for endpoint in endpoints if endpoint.is_ready]
        best = min((endpoint.priority for endpoint in ready), default=0)
        self.ready = tuple(endpoint for endpoint in ready if endpoint.priority == best)
        self.spill_over = ()
        if ready:
            self.balancer = self._balancers[best]
        if len(self.ready) < len(ready):
            others = sorted({endpoint.priority for endpoint in ready} - {best})
            self.spill_over = [
                (self._balancers[other], tuple(each for each in ready if each.priority == other))
                for other in others
            ]
