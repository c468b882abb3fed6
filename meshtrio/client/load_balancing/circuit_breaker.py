"""Circuit breaker: fails calls at once above a number in flight or waiting, as Envoy's does."""

from __future__ import annotations

import purerpc

from meshtrio.grpc.service_config import CircuitBreakerLimits


class CircuitBreaker:
    """Counts the calls of one channel; counts are kept when the limits change."""

    __slots__ = ("_in_flight", "_name", "_pending", "limits")

    def __init__(self, name: str) -> None:
        """`name`: the channel's, for errors."""
        self._name = name
        self.limits = CircuitBreakerLimits()
        self._in_flight = 0
        self._pending = 0

    def acquire_slot(self) -> None:
        """Count an attempt that has an endpoint.

        Raises:
            ResourceExhaustedError: `max_in_flight` is reached.
        """
        self._check(self._in_flight, self.limits.max_in_flight, "calls in flight")
        self._in_flight += 1

    def release_slot(self) -> None:
        self._in_flight -= 1

    @property
    def pending_count(self) -> int:
        """Number of calls that wait for an endpoint."""
        return self._pending

    def acquire_pending(self) -> None:
        """Count an attempt that waits for an endpoint.

        Raises:
            ResourceExhaustedError: `max_pending` is reached.
        """
        self._check(self._pending, self.limits.max_pending, "pending calls")
        self._pending += 1

    def release_pending(self) -> None:
        self._pending -= 1

    def _check(self, count: int, limit: int | None, what: str) -> None:
        if limit is not None and count >= limit:
            text = f"{self._name}: the limit of {limit} {what} is reached"
            raise purerpc.ResourceExhaustedError(text)
