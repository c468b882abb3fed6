"""Whether a call that failed is tried again, and when (gRFC A6).

A call is *committed* once its reply has begun: after that nothing here is asked any more.
"""

from __future__ import annotations

import re
from enum import Enum
from random import Random

from meshtrio.grpc.retry_policy import RetryBudgetConfig, RetryPolicy, RetryThrottling

MAX_ATTEMPTS = 5
"""Whatever a policy says: A6's own bound."""
PUSHBACK_KEY = "grpc-retry-pushback-ms"
PREVIOUS_ATTEMPTS_KEY = b"grpc-previous-rpc-attempts"


class Pushback(Enum):
    """What a server may say of retries beside after how many seconds."""

    ABSENT = "none"
    DO_NOT_RETRY = "never"


_NUMBER = re.compile(r"-?(0|[1-9]\d{0,9})")


def parse_pushback(value: str | bytes | None) -> float | Pushback:
    """The meaning of `grpc-retry-pushback-ms`, in seconds: what is no number means never."""
    if value is None:
        return Pushback.ABSENT
    text = value.decode("ascii", "replace") if isinstance(value, bytes) else value
    if not _NUMBER.fullmatch(text):
        return Pushback.DO_NOT_RETRY
    milliseconds = int(text)
    return Pushback.DO_NOT_RETRY if not 0 <= milliseconds < 2**31 else milliseconds / 1000


class RetryThrottle:
    """One for all calls of a channel, retried or not."""

    def __init__(self, config: RetryThrottling) -> None:
        self._config = config
        self.tokens = config.max_tokens

    @property
    def can_retry(self) -> bool:
        return self.tokens > self._config.max_tokens / 2

    def on_success(self) -> None:
        self.tokens = min(self.tokens + self._config.token_ratio, self._config.max_tokens)

    def on_failure(self) -> None:
        self.tokens = max(self.tokens - 1, 0.0)


class RetryBudget:
    """Bounds what retries add to the load of a service, whatever the policies of its methods.

    Each call earns a part of a retry, for `_TTL` seconds' worth of calls at the most.
    """

    _TTL = 10.0

    def __init__(self, config: RetryBudgetConfig) -> None:
        self._config = config
        self._deposits = 0.0
        self._reserve = config.min_per_second * self._TTL
        self._updated_at = 0.0

    def _update(self, now: float) -> None:
        passed, self._updated_at = max(now - self._updated_at, 0.0), now
        self._deposits *= max(1 - passed / self._TTL, 0.0)
        most = self._config.min_per_second * self._TTL
        self._reserve = min(self._reserve + passed * self._config.min_per_second, most)

    def deposit(self, now: float) -> None:
        """A call was made."""
        self._update(now)
        self._deposits += self._config.ratio

    def withdraw(self, now: float) -> bool:
        """Take a retry out, if there is one."""
        self._update(now)
        if self._deposits >= 1:
            self._deposits -= 1
        elif self._reserve >= 1:
            self._reserve -= 1
        else:
            return False
        return True


class RetryState:
    """One call's: `after` each failed attempt tells when there is another, None for never."""

    def __init__(self, policy: RetryPolicy, throttle: RetryThrottle | None, rng: Random) -> None:
        self._policy = policy
        self._throttle = throttle
        self._rng = rng
        self.attempts = 1
        self._backoff_count = 0
        """In a row, without being told when to come back."""

    def next_delay(self, code: int, pushback: float | Pushback) -> float | None:
        """Seconds until the next attempt, None where there is none."""
        retryable = code in self._policy.retryable_codes
        if self._throttle is not None and (retryable or pushback is Pushback.DO_NOT_RETRY):
            self._throttle.on_failure()
        if not retryable or pushback is Pushback.DO_NOT_RETRY:
            return None
        if self.attempts >= min(self._policy.max_attempts, MAX_ATTEMPTS):
            return None
        if self._throttle is not None and not self._throttle.can_retry:
            return None
        self.attempts += 1
        if isinstance(pushback, float):
            self._backoff_count = 0
            return pushback
        self._backoff_count += 1
        return self._policy.backoff.delay(self._backoff_count, self._rng)
