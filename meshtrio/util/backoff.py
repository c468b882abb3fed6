"""Exponential backoff with jitter."""

from __future__ import annotations

from random import Random

import attrs
from attrs.validators import and_, ge, le

from meshtrio.util.record import Record


@attrs.frozen(eq=False, repr=False)
class Backoff(Record):
    """Delays of `initial` × `multiplier`ⁿ seconds, at most `maximum`, each varied by `jitter`.

    A jitter of 0.2 spreads a delay of 1 s evenly over 0.8 s to 1.2 s, so that processes that have
    failed at the same time do not retry at the same time.
    """

    initial: float = attrs.field(default=0.1, validator=ge(0))
    """Delay after the first failure, in seconds."""
    maximum: float = attrs.field(default=30.0, validator=ge(0))
    """Maximum delay before jitter, in seconds."""
    multiplier: float = attrs.field(default=2.0, validator=ge(1))
    """Factor from one delay to the next; at least 1."""
    jitter: float = attrs.field(default=0.2, validator=and_(ge(0), le(1)))
    """Fraction by which a delay is varied up or down; 0 to 1."""

    def delay(self, failures: int, rng: Random) -> float:
        """Return the delay in seconds after the last of a number of consecutive failures."""
        # A float overflows long before a plugin reaches its maximum number of restarts.
        exponent = min(max(failures - 1, 0), 64)
        base = min(self.initial * self.multiplier**exponent, self.maximum)
        return base * (1 + self.jitter * (2 * rng.random() - 1))
