"""Which endpoints calls go to now: those of the best priority that has any, and who picks there."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from random import Random

from meshtrio.client.subchannel import Subchannel
from meshtrio.policies.balancing import (
    Balancer,
    LeastRequest,
    PickFirst,
    RingHash,
    RingSize,
    RoundRobin,
)
from meshtrio.policies.service_config import Balancing, LoadBalancing


class Ranking:
    """A balancer for each priority, that knows who is listed there."""

    def __init__(self, rng: Random) -> None:
        self.ready: Sequence[Subchannel] = ()
        """Those of the best priority that has any."""
        self.balancer: Balancer[Subchannel] = RoundRobin()
        """What picks among them."""
        self._rng = rng
        self._balancers: dict[int, Balancer[Subchannel]] = {}

    def forget(self) -> None:
        """Have the balancers made anew: they are to be of another kind."""
        self._balancers = {}

    def arrange(self, subchannels: Iterable[Subchannel], config: LoadBalancing) -> None:
        """Take over who is listed now."""
        tiers: dict[int, list[Subchannel]] = {}
        for subchannel in subchannels:
            tiers.setdefault(subchannel.endpoint.priority, []).append(subchannel)
        self._balancers = {
            priority: self._balancers.get(priority) or self._make(config) for priority in tiers
        }
        for priority, tier in tiers.items():
            self._balancers[priority].update(tier)

    def _make(self, config: LoadBalancing) -> Balancer[Subchannel]:
        match config.policy:
            case Balancing.PICK_FIRST:
                return PickFirst()
            case Balancing.ROUND_ROBIN:
                return RoundRobin()
            case Balancing.RING_HASH:
                return RingHash(self._rng, RingSize(*config.ring_sizes))
            case Balancing.LEAST_REQUEST:
                return LeastRequest(self._rng, config.choices)

    def rank(self, subchannels: Iterable[Subchannel]) -> None:
        """Find those that are ready, of the best priority that has any."""
        ready = [s for s in subchannels if s.ready]
        if ready:
            best = min(s.endpoint.priority for s in ready)
            self.ready = tuple(s for s in ready if s.endpoint.priority == best)
            self.balancer = self._balancers[best]
        else:
            self.ready = ()
