"""Whether a failed call is retried, and when (gRFC A6): decisions without clock or I/O.

A call is *committed* once its response headers have arrived; a committed call is not retried.
"""

from __future__ import annotations

import math
import re
from random import Random

import purerpc

from meshtrio.errors import CallRefusedError
from meshtrio.grpc.service_config import RetryBudgetConfig, RetryPolicy, RetryThrottling
from meshtrio.util.backoff import Backoff

MAX_ATTEMPTS = 5
"""Upper bound of every policy's `maxAttempts` (gRFC A6)."""
PUSHBACK_KEY = "grpc-retry-pushback-ms"
PREVIOUS_ATTEMPTS_KEY = b"grpc-previous-rpc-attempts"

_TRANSPARENT_BACKOFF = Backoff(initial=0.02, maximum=5.0, multiplier=1.6, jitter=0.2)
"""Delays of transparent retries, so that a server that keeps refusing is not flooded."""


DO_NOT_RETRY = math.inf
"""Pushback of a server that wants no other attempt."""
_NUMBER = re.compile(r"-?(0|[1-9]\d{0,9})")


def parse_pushback(value: str | bytes | None) -> float | None:
    """Parse `grpc-retry-pushback-ms`: seconds, or DO_NOT_RETRY if it is negative or malformed."""
    if value is None:
        return None
    text = value.decode("ascii", "replace") if isinstance(value, bytes) else value
    milliseconds = int(text) if _NUMBER.fullmatch(text) else -1
    return milliseconds / 1000 if 0 <= milliseconds < 2**31 else DO_NOT_RETRY


class RetryThrottle:
    """Stops the retries of a channel while too many of its calls fail."""

    def __init__(self, config: RetryThrottling) -> None:
        self._config = config
        self.tokens = config.max_tokens

    def reconfigure(self, config: RetryThrottling) -> None:
        """Apply new settings; the same share of the tokens remains."""
        self.tokens *= config.max_tokens / self._config.max_tokens
        self._config = config

    @property
    def can_retry(self) -> bool:
        return self.tokens > self._config.max_tokens / 2

    def on_success(self) -> None:
        self.tokens = min(self.tokens + self._config.token_ratio, self._config.max_tokens)

    def on_failure(self) -> None:
        self.tokens = max(self.tokens - 1, 0.0)


class RetryBudget:
    """Limits the load that retries add to a service, whatever the policies of its methods.

    Each call deposits a fraction of a retry, which expires within `_TTL` seconds. Compare tower's
    `retry::budget`.
    """

    _TTL = 10.0

    def __init__(self, config: RetryBudgetConfig) -> None:
        self._config = config
        self._deposits = 0.0
        self._reserve = config.min_per_second * self._TTL
        self._updated_at = 0.0

    def reconfigure(self, config: RetryBudgetConfig) -> None:
        """Apply new settings; deposits and the same share of the reserve remain."""
        before = self._config.min_per_second
        self._reserve *= config.min_per_second / before if before else 0.0
        self._config = config

    def _update(self, now: float) -> None:
        elapsed, self._updated_at = max(now - self._updated_at, 0.0), now
        self._deposits *= max(1 - elapsed / self._TTL, 0.0)
        rate = self._config.min_per_second
        self._reserve = min(self._reserve + elapsed * rate, rate * self._TTL)

    def deposit(self, now: float) -> None:
        """Count a call."""
        self._update(now)
        self._deposits += self._config.ratio

    def withdraw(self, now: float) -> bool:
        """Take one retry; False if none is left."""
        self._update(now)
        if self._deposits >= 1:
            self._deposits -= 1
        elif self._reserve >= 1:
            self._reserve -= 1
        else:
            return False
        return True


class RetryControl:
    """Limits on retries that hold for all calls of a channel."""

    __slots__ = ("budget", "rng", "throttle")

    def __init__(self, rng: Random) -> None:
        self.rng = rng
        """Randomizes backoff."""
        self.throttle: RetryThrottle | None = None
        """Present if the service config has `retryThrottling`."""
        self.budget = RetryBudget(RetryBudgetConfig())

    def reconfigure(self, budget: RetryBudgetConfig, throttling: RetryThrottling | None) -> None:
        """Apply a service config, keeping what has been used up.

        Otherwise a reload during an outage would let all clients retry again (compare gRPC core's
        client_channel/retry_throttle.cc, which scales the tokens).
        """
        self.budget.reconfigure(budget)
        if throttling is None:
            self.throttle = None
        elif self.throttle is None:
            self.throttle = RetryThrottle(throttling)
        else:
            self.throttle.reconfigure(throttling)


class RetryState:
    """The attempts of one call: decides after each failure whether there is another, and when.

    A call that never left the client is retried without limit, and one that a server's library
    refused (REFUSED_STREAM, or above the last stream id of GOAWAY) once: these are A6's
    *transparent* retries, which need no policy and count as no attempt. All other failures, and a
    second refusal, are subject to the policy.
    """

    __slots__ = (
        "_backoff_count",
        "_control",
        "_is_refused",
        "_policy",
        "_transparent_count",
        "attempts",
        "is_transparent",
    )

    def __init__(self, policy: RetryPolicy | None, control: RetryControl) -> None:
        self._policy = policy
        self._control = control
        self.attempts = 1
        """Number of attempts, transparent retries excluded."""
        self.is_transparent = False
        """Whether the retry that was decided last is transparent."""
        self._is_refused = False
        """A server has refused the call once."""
        self._transparent_count = 0
        self._backoff_count = 0
        """Number of retries since the last pushback."""

    def next_delay(
        self,
        failure: purerpc.RpcFailedError,
        pushback: float | None,
        now: float,
        deadline: float = math.inf,
    ) -> float | None:
        """Return the seconds until another attempt after `failure`, None if the failure is final.

        `now` and the caller's `deadline` are seconds of one monotonic clock. No retry by policy is
        due after the deadline, since the failure says more than DEADLINE_EXCEEDED would.
        """
        if isinstance(failure, CallRefusedError) and not (
            failure.reached_server and self._is_refused
        ):
            self._is_refused = self._is_refused or failure.reached_server
            self.is_transparent = True
            self._transparent_count += 1
            return _TRANSPARENT_BACKOFF.delay(self._transparent_count, self._control.rng)
        self.is_transparent = False
        delay = self._next_policy_delay(failure.status.status_code.value, pushback)
        if delay is None or now + delay >= deadline or not self._control.budget.withdraw(now):
            return None
        self.attempts += 1
        return delay

    def _next_policy_delay(self, code: int, pushback: float | None) -> float | None:
        policy, throttle = self._policy, self._control.throttle
        if policy is None:
            return None
        is_retryable = code in policy.retryable_codes
        if throttle is not None and (is_retryable or pushback == DO_NOT_RETRY):
            throttle.on_failure()
        if (
            not is_retryable
            or pushback == DO_NOT_RETRY
            or self.attempts >= min(policy.max_attempts, MAX_ATTEMPTS)
            or (throttle is not None and not throttle.can_retry)
        ):
            return None
        if pushback is not None:
            self._backoff_count = 0
            return pushback
        self._backoff_count += 1
        return policy.backoff.delay(self._backoff_count, self._control.rng)
