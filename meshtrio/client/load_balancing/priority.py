"""Priorities: calls go to the endpoints of the best priority that has a ready one (gRFC A56)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from random import Random
from typing import Generic, Protocol, TypeVar

from meshtrio.client.load_balancing.policies import (
    Balancer,
    Candidate,
    LeastRequest,
    PickFirst,
    RingHash,
    RingSize,
    RoundRobin,
)
from meshtrio.grpc.service_config import LoadBalancingConfig, LoadBalancingPolicy


class PrioritizedCandidate(Candidate, Protocol):
    """An endpoint, as `PriorityPolicy` sees it."""

    @property
    def priority(self) -> int:
        """Priority of the endpoint; lower is better."""


P = TypeVar("P", bound=PrioritizedCandidate)


class PriorityPolicy(Generic[P]):
    """Keeps a balancer for each priority."""

    def __init__(self, rng: Random) -> None:
        self.ready: Sequence[P] = ()
        """Ready endpoints of the best priority that has any."""
        self.balancer: Balancer[P] = RoundRobin()
        """Picks among `ready`."""
        self._rng = rng
        self._balancers: dict[int, Balancer[P]] = {}

    def reset(self) -> None:
        """Drop the balancers, before endpoints are updated with another config."""
        self._balancers = {}

    def update_endpoints(self, endpoints: Iterable[P], config: LoadBalancingConfig) -> None:
        """Set the listed endpoints."""
        by_priority: dict[int, list[P]] = {}
        for endpoint in endpoints:
            by_priority.setdefault(endpoint.priority, []).append(endpoint)
        self._balancers = {
            priority: self._balancers.get(priority) or self._make_balancer(config)
            for priority in by_priority
        }
        for priority, members in by_priority.items():
            self._balancers[priority].update_endpoints(members)

    def _make_balancer(self, config: LoadBalancingConfig) -> Balancer[P]:
        match config.policy:
            case LoadBalancingPolicy.PICK_FIRST:
                return PickFirst()
            case LoadBalancingPolicy.ROUND_ROBIN:
                return RoundRobin()
            case LoadBalancingPolicy.RING_HASH:
                return RingHash(self._rng, RingSize(*config.ring_size_range))
            case LoadBalancingPolicy.LEAST_REQUEST:
                return LeastRequest(self._rng, config.choice_count)

    def update_ready(self, endpoints: Iterable[P]) -> None:
        """Follow changes of readiness."""
        ready = [endpoint for endpoint in endpoints if endpoint.is_ready]
        if ready:
            best = min(endpoint.priority for endpoint in ready)
            self.ready = tuple(endpoint for endpoint in ready if endpoint.priority == best)
            self.balancer = self._balancers[best]
        else:
            self.ready = ()
