"""When a name is looked up next, from its TTL and from failures. Pure."""

from __future__ import annotations

from random import Random

from meshtrio.util.backoff import Backoff

MIN_TTL = 1.0
"""Minimum seconds from one lookup of a name to the next. A TTL of 0, as Consul and dnsmasq have by
default, means that an answer is not to be kept; without a minimum it would be asked for all the
time."""
MAX_TTL = 60.0
"""Maximum seconds from one lookup of a name to the next. Docker's DNS says 600 s of containers that
are replaced within one."""
FAILURE_BACKOFF = Backoff(initial=MIN_TTL, maximum=10.0, multiplier=2.0, jitter=0.2)
"""Delays between lookups that fail."""
EARLY_BACKOFF = Backoff(initial=MIN_TTL, maximum=16.0, multiplier=2.0, jitter=0.0)
"""Delays between lookups after a connection has failed, until the answer changes: DNS may learn of
the end of a server later than its clients."""
MAX_EARLY_LOOKUPS = 5
"""Number of early lookups after a connection has failed; the last one is 31 s after the failure.
Then the TTL counts again, and the next failure starts others."""


class LookupSchedule:
    """The time of the next lookup of one name. Times are seconds of a monotonic clock."""

    def __init__(self, now: float, rng: Random) -> None:
        """Schedule the first lookup at once."""
        self._rng = rng
        self._last_start = now - MIN_TTL
        self._failures = 0
        self._early_lookups: int | None = None
        """Number of early lookups since a connection has failed; None if none has."""
        self.next_at = now
        """When to look the name up next."""

    def on_start(self, now: float) -> None:
        """A lookup starts."""
        self._last_start = now

    def on_answer(self, now: float, ttl: float, *, has_changed: bool) -> None:
        """A lookup has ended with an answer that is valid for `ttl` seconds."""
        self._failures = 0
        if has_changed:
            self._early_lookups = None
        self.next_at = now + min(max(ttl, MIN_TTL), MAX_TTL)
        self._apply_early_backoff(now)

    def on_failure(self, now: float) -> None:
        """A lookup has failed."""
        self._failures += 1
        self.next_at = max(
            now + FAILURE_BACKOFF.delay(self._failures, self._rng), self._last_start + MIN_TTL
        )

    def expire(self, now: float) -> None:
        """Schedule the next lookup as soon as possible."""
        self.next_at = min(self.next_at, max(now, self._last_start + MIN_TTL))

    def on_connect_failure(self, now: float) -> None:
        """A connection to one of the endpoints has failed."""
        if self._early_lookups is None:
            self._early_lookups = 0
            self.expire(now)

    def _apply_early_backoff(self, now: float) -> None:
        if self._early_lookups is None:
            return
        self._early_lookups += 1
        if self._early_lookups > MAX_EARLY_LOOKUPS:
            self._early_lookups = None
            return
        self.next_at = min(self.next_at, now + EARLY_BACKOFF.delay(self._early_lookups, self._rng))
