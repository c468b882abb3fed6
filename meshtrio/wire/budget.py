"""How often a peer may do what costs this side more than it: a token bucket."""

from __future__ import annotations


class Budget:
    """`burst` tokens at once, `rate` a second after that, and what the peer earns by its work."""

    __slots__ = ("_at", "_burst", "_left", "_most", "_rate", "earned", "parent")

    def __init__(self, burst: float, rate: float, most: float | None = None) -> None:
        """`most`: tokens that may be there with those that were earned, by default the burst."""
        self._most = burst if most is None else most
        self._burst = burst
        self._rate = rate
        self._left = burst
        self._at = 0.0
        self.earned = 0
        """Tokens to give back, to be added to, which every good frame does."""
        self.parent: Budget | None = None
        """Has to pay as well for what was not earned: the budget of several peers together."""

    @property
    def has_more(self) -> bool:
        """Another token was there when the last one was taken."""
        return self._left >= 1

    def take(self, now: float, cost: float = 1.0) -> bool:
        """Spend `cost` tokens at `now` (seconds, monotonic).

        Returns:
            False when there are not that many; none is spent then.
        """
        if now > self._at:
            refilled = min(self._left + (now - self._at) * self._rate, self._burst)
            self._left, self._at = max(self._left, refilled), now
        self._left = min(self._left + self.earned, self._most)
        self.earned = 0
        if self._left < cost:
            return False
        unearned = self.parent is not None and self._left - cost < self._burst
        if unearned and self.parent is not None and not self.parent.take(now, cost):
            return False
        self._left -= cost
        return True
