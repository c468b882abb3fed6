"""Retry and hedging settings of a service config (gRFC A6)."""

from __future__ import annotations

import attrs

from meshtrio.util.backoff import Backoff


@attrs.frozen
class RetryPolicy:
    """Sequential attempts: `retryPolicy` of a method config."""

    max_attempts: int
    """Maximum number of attempts, the first one included."""
    backoff: Backoff
    """Delays between attempts."""
    retryable_codes: frozenset[int]
    """Status codes after which another attempt may be made."""


@attrs.frozen
class HedgingPolicy:
    """Concurrent attempts: `hedgingPolicy` of a method config."""

    max_attempts: int
    """Maximum number of attempts, the first one included."""
    hedging_delay: float
    """Seconds from the start of one attempt to the start of the next."""
    non_fatal_codes: frozenset[int]
    """Status codes that start the next attempt at once; any other ends the call."""


@attrs.frozen
class RetryThrottling:
    """Limits retries while a server is failing: `retryThrottling` of a service config."""

    max_tokens: float
    """Initial and maximum number of tokens; retries stop at half of it."""
    token_ratio: float
    """Tokens that each successful call adds. A failed call takes one."""


@attrs.frozen
class RetryBudgetConfig:
    """Limits the share of retries in a service's load: `meshtrio.retryBudget`."""

    ratio: float = 0.2
    """Retries that each call allows."""
    min_per_second: float = 10.0
    """Retries allowed per second in addition, so that services with few calls can retry."""
