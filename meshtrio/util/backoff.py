"""Exponential backoff with jitter: how long to wait before trying again."""

from __future__ import annotations

from random import Random

import attrs
from attrs.validators import and_, ge, le


@attrs.frozen
class Backoff:
    """Delays of `initial` × `multiplier`ⁿ seconds, at most `maximum`, each varied by `jitter`.

    Jitter is a fraction: 0.2 spreads a delay of 1 s evenly over 0.8 s to 1.2 s, so that what
    failed together does not come back together.
    """

    initial: float = attrs.field(default=0.1, validator=ge(0))
    """Seconds, after the first failure."""
    maximum: float = attrs.field(default=30.0, validator=ge(0))
    """Seconds."""
    multiplier: float = attrs.field(default=2.0, validator=ge(1))
    """From one to the next."""
    jitter: float = attrs.field(default=0.2, validator=and_(ge(0), le(1)))
    """A fraction either way."""

    def delay(self, failures: int, rng: Random) -> float:
        """Seconds to wait after the `failures`-th failure in a row (1 for the first)."""
        # The exponent is bounded because a float overflows long before a plugin gives up.
        exponent = min(max(failures - 1, 0), 64)
        plain = min(self.initial * self.multiplier**exponent, self.maximum)
        return plain * (1 + self.jitter * (2 * rng.random() - 1))
