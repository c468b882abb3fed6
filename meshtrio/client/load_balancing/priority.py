"""Which endpoints calls go to now: those of the best priority that has any, and who picks there."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from random import Random

from meshtrio.client.channel_endpoint import ChannelEndpoint
from meshtrio.client.load_balancing.policies import (
    Balancer,
    LeastRequest,
    PickFirst,
    RingHash,
    RingSize,
    RoundRobin,
)
from meshtrio.grpc.service_config import LoadBalancingConfig, LoadBalancingPolicy


class PriorityPolicy:
    """A balancer for each priority, that knows who is listed there."""

    def __init__(self, rng: Random) -> None:
        self.ready: Sequence[ChannelEndpoint] = ()
        """Those of the best priority that has any."""
        self.balancer: Balancer[ChannelEndpoint] = RoundRobin()
        """What picks among them."""
        self._rng = rng
        self._balancers: dict[int, Balancer[ChannelEndpoint]] = {}

    def reset(self) -> None:
        """Have the balancers made anew: they are to be of another kind."""
        self._balancers = {}

    def update_endpoints(
        self, endpoints: Iterable[ChannelEndpoint], config: LoadBalancingConfig
    ) -> None:
        """Take over who is listed now."""
        tiers: dict[int, list[ChannelEndpoint]] = {}
        for subchannel in endpoints:
            tiers.setdefault(subchannel.endpoint.priority, []).append(subchannel)
        self._balancers = {
            priority: self._balancers.get(priority) or self._make_balancer(config)
            for priority in tiers
        }
        for priority, tier in tiers.items():
            self._balancers[priority].update_endpoints(tier)

    def _make_balancer(self, config: LoadBalancingConfig) -> Balancer[ChannelEndpoint]:
        match config.policy:
            case LoadBalancingPolicy.PICK_FIRST:
                return PickFirst()
            case LoadBalancingPolicy.ROUND_ROBIN:
                return RoundRobin()
            case LoadBalancingPolicy.RING_HASH:
                return RingHash(self._rng, RingSize(*config.ring_size_range))
            case LoadBalancingPolicy.LEAST_REQUEST:
                return LeastRequest(self._rng, config.choice_count)

    def update_ready(self, endpoints: Iterable[ChannelEndpoint]) -> None:
        """Find those that are ready, of the best priority that has any."""
        ready = [s for s in endpoints if s.is_ready]
        if ready:
            best = min(s.endpoint.priority for s in ready)
            self.ready = tuple(s for s in ready if s.endpoint.priority == best)
            self.balancer = self._balancers[best]
        else:
            self.ready = ()
