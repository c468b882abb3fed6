"""Whether a call that failed is tried again, and when (gRFC A6).

A call is *committed* once its reply has begun: after that nothing here is asked any more.
"""

from __future__ import annotations

import re
from enum import Enum
from random import Random

import attrs

from meshtrio.backoff import Backoff

MOST_ATTEMPTS = 5
"""Whatever a policy says: A6's own bound."""
PUSHBACK = "grpc-retry-pushback-ms"
PREVIOUS_ATTEMPTS = b"grpc-previous-rpc-attempts"


@attrs.frozen
class RetryPolicy:
    """One attempt after the other; `codes` are the statuses after which there is another."""

    max_attempts: int
    backoff: Backoff
    codes: frozenset[int]


@attrs.frozen
class HedgingPolicy:
    """Several at once: another every `delay` seconds until one succeeds, or fails for good."""

    max_attempts: int
    delay: float
    non_fatal: frozenset[int]


class Pushback(Enum):
    """What a server may say of retries beside after how many seconds."""

    NONE = "none"
    NEVER = "never"


_NUMBER = re.compile(r"-?(0|[1-9]\d{0,9})")


def pushback_of(value: str | bytes | None) -> float | Pushback:
    """The meaning of `grpc-retry-pushback-ms`, in seconds: what is no number means never."""
    if value is None:
        return Pushback.NONE
    text = value.decode("ascii", "replace") if isinstance(value, bytes) else value
    if not _NUMBER.fullmatch(text):
        return Pushback.NEVER
    milliseconds = int(text)
    return Pushback.NEVER if not 0 <= milliseconds < 2**31 else milliseconds / 1000


@attrs.frozen
class Throttling:
    """How few of the calls may fail before none is tried again."""

    max_tokens: float
    token_ratio: float


class Throttle:
    """One for all calls of a channel, retried or not."""

    def __init__(self, config: Throttling) -> None:
        self._config = config
        self.tokens = config.max_tokens

    @property
    def allows(self) -> bool:
        return self.tokens > self._config.max_tokens / 2

    def succeeded(self) -> None:
        self.tokens = min(self.tokens + self._config.token_ratio, self._config.max_tokens)

    def failed(self) -> None:
        self.tokens = max(self.tokens - 1, 0.0)


@attrs.frozen
class BudgetConfig:
    """Retries for each call (`ratio`), and so many a second however few calls there are."""

    ratio: float = 0.2
    min_per_second: float = 10.0


class RetryBudget:
    """Bounds what retries add to the load of a service, whatever the policies of its methods.

    Each call earns a part of a retry, for `_TTL` seconds' worth of calls at the most.
    """

    _TTL = 10.0

    def __init__(self, config: BudgetConfig) -> None:
        self._config = config
        self._earned = 0.0
        self._reserve = config.min_per_second * self._TTL
        self._looked = 0.0

    def _pass_time(self, now: float) -> None:
        passed, self._looked = max(now - self._looked, 0.0), now
        self._earned *= max(1 - passed / self._TTL, 0.0)
        most = self._config.min_per_second * self._TTL
        self._reserve = min(self._reserve + passed * self._config.min_per_second, most)

    def deposit(self, now: float) -> None:
        """A call was made."""
        self._pass_time(now)
        self._earned += self._config.ratio

    def withdraw(self, now: float) -> bool:
        """Take a retry out, if there is one."""
        self._pass_time(now)
        if self._earned >= 1:
            self._earned -= 1
        elif self._reserve >= 1:
            self._reserve -= 1
        else:
            return False
        return True


class Retries:
    """One call's: `after` each failed attempt tells when there is another, None for never."""

    def __init__(self, policy: RetryPolicy, throttle: Throttle | None, rng: Random) -> None:
        self._policy = policy
        self._throttle = throttle
        self._rng = rng
        self.attempts = 1
        self._failures = 0
        """In a row, without being told when to come back."""

    def after(self, code: int, pushback: float | Pushback) -> float | None:
        """Seconds until the next attempt, None where there is none."""
        retryable = code in self._policy.codes
        if self._throttle is not None and (retryable or pushback is Pushback.NEVER):
            self._throttle.failed()
        if not retryable or pushback is Pushback.NEVER:
            return None
        if self.attempts >= min(self._policy.max_attempts, MOST_ATTEMPTS):
            return None
        if self._throttle is not None and not self._throttle.allows:
            return None
        self.attempts += 1
        if isinstance(pushback, float):
            self._failures = 0
            return pushback
        self._failures += 1
        return self._policy.backoff.delay(self._failures, self._rng)
