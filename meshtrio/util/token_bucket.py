"""A token bucket, for what costs this side more than its peer."""

from __future__ import annotations


class TokenBucket:
    """Holds up to `burst` tokens, and refills at `rate` per second.

    Additional tokens can be earned (`credits`), up to `max_tokens` in all. Tokens that were
    not earned are charged to the parent bucket as well, which limits several buckets together.
    """

    __slots__ = ("_burst", "_max_tokens", "_rate", "_tokens", "_updated_at", "credits", "parent")

    def __init__(self, burst: float, rate: float, max_tokens: float | None = None) -> None:
        """Create a full bucket; `max_tokens` is `burst` if None."""
        self._max_tokens = burst if max_tokens is None else max_tokens
        self._burst = burst
        self._rate = rate
        self._tokens = burst
        self._updated_at = 0.0
        self.credits = 0
        """Number of tokens that were earned since the last `try_acquire`. Callers increment it,
        which is cheaper than a method call per frame."""
        self.parent: TokenBucket | None = None
        """Bucket that is charged as well for tokens that were not earned; None for none."""

    @property
    def has_tokens(self) -> bool:
        """Whether another token was left after the last `try_acquire`."""
        return self._tokens >= 1

    def try_acquire(self, now: float, cost: float = 1.0) -> bool:
        """Take `cost` tokens at the time `now`, or return False if it or its parent has fewer."""
        if now > self._updated_at:
            refilled = min(self._tokens + (now - self._updated_at) * self._rate, self._burst)
            self._tokens, self._updated_at = max(self._tokens, refilled), now
        self._tokens = min(self._tokens + self.credits, self._max_tokens)
        self.credits = 0
        if self._tokens < cost:
            return False
        parent, unearned = self.parent, self._tokens - cost < self._burst
        if parent is not None and unearned and not parent.try_acquire(now, cost):
            return False
        self._tokens -= cost
        return True
