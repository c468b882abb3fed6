"""How often a peer may do what costs this side more than it: a token bucket."""

from __future__ import annotations


class TokenBucket:
    """`burst` tokens at once, `rate` a second after that, and what the peer earns by its work."""

    __slots__ = ("_burst", "_max_tokens", "_rate", "_tokens", "_updated_at", "credits", "parent")

    def __init__(self, burst: float, rate: float, max_tokens: float | None = None) -> None:
        """`most`: tokens that may be there with those that were earned, by default the burst."""
        self._max_tokens = burst if max_tokens is None else max_tokens
        self._burst = burst
        self._rate = rate
        self._tokens = burst
        self._updated_at = 0.0
        self.credits = 0
        """Tokens to give back, to be added to, which every good frame does."""
        self.parent: TokenBucket | None = None
        """Has to pay as well for what was not earned: the budget of several peers together."""

    @property
    def has_tokens(self) -> bool:
        """Another token was there when the last one was taken."""
        return self._tokens >= 1

    def try_acquire(self, now: float, cost: float = 1.0) -> bool:
        """Spend `cost` tokens at `now` (seconds, monotonic).

        Returns:
            False when there are not that many; none is spent then.
        """
        if now > self._updated_at:
            refilled = min(self._tokens + (now - self._updated_at) * self._rate, self._burst)
            self._tokens, self._updated_at = max(self._tokens, refilled), now
        self._tokens = min(self._tokens + self.credits, self._max_tokens)
        self.credits = 0
        if self._tokens < cost:
            return False
        unearned = self.parent is not None and self._tokens - cost < self._burst
        if unearned and self.parent is not None and not self.parent.try_acquire(now, cost):
            return False
        self._tokens -= cost
        return True
