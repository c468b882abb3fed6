"""How often a peer may do what costs this side more than it: a token bucket."""

from __future__ import annotations


class Budget:
    """`burst` tokens at once, `rate` a second after that, and what the peer earns by its work."""

    __slots__ = ("_at", "_burst", "_left", "_rate")

    def __init__(self, burst: float, rate: float) -> None:
        self._burst = burst
        self._rate = rate
        self._left = burst
        self._at = 0.0

    def take(self, now: float) -> bool:
        """Spend a token at `now` (seconds, monotonic); False when there is none."""
        if now > self._at:
            self._left = min(self._left + (now - self._at) * self._rate, self._burst)
            self._at = now
        if self._left < 1:
            return False
        self._left -= 1
        return True

    def earn(self, count: float = 1) -> None:
        """Give tokens back, up to the burst."""
        self._left = min(self._left + count, self._burst)
