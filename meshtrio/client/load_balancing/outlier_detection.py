"""Outlier detection: ejects endpoints that fail more than others for a while (gRFC A50).

The two algorithms of A50 run at the end of each interval. In addition, as in Envoy, a number of
consecutive failures can eject an endpoint at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from random import Random

import attrs

from meshtrio.grpc.outlier_detection import (
    DetectionMethod,
    Ejection,
    FailurePercentage,
    OutlierDetection,
    SuccessRate,
    UnenforcedReason,
)


@attrs.define(eq=False, repr=False)
class _Host:
    succeeded: int = 0
    failed: int = 0
    consecutive_failures: int = 0
    ejected_at: float | None = None
    ejection_time_multiplier: int = 0
    ejected_by: DetectionMethod | None = None
    ejections: int = 0

    @property
    def request_volume(self) -> int:
        return self.succeeded + self.failed

    @property
    def success_rate(self) -> float:
        return self.succeeded / self.request_volume


@attrs.frozen
class EjectedHost:
    """Why an endpoint is ejected, and how long; times are those of `record`."""

    since: float
    until: float
    """From when on it may be readmitted, at the end of an interval."""
    rule: DetectionMethod
    """The algorithm that has found it."""


class OutlierDetector:
    """The results of calls of one channel, by endpoint id."""

    def __init__(
        self, config: OutlierDetection, rng: Random, on_ejection: Callable[[Ejection], None]
    ) -> None:
        """Start without results; `on_ejection` is called for each outlier that is found."""
        self.config = config
        self._rng = rng
        self._on_ejection = on_ejection
        self._hosts: dict[str, _Host] = {}

    @property
    def ejected(self) -> frozenset[str]:
        """Ids of the endpoints that are ejected now."""
        return frozenset(n for n, host in self._hosts.items() if host.ejected_at is not None)

    def find_ejection(self, name: str) -> EjectedHost | None:
        """Return the ejection of an endpoint; None if it is not ejected."""
        host = self._hosts.get(name)
        if host is None or host.ejected_at is None or host.ejected_by is None:
            return None
        return EjectedHost(host.ejected_at, self._get_ejection_end(host), host.ejected_by)

    def count_ejections(self, name: str) -> int:
        """Return how often an endpoint was ejected."""
        host = self._hosts.get(name)
        return 0 if host is None else host.ejections

    def update_endpoints(self, names: Iterable[str]) -> None:
        """Set the listed endpoints; the results of others are dropped."""
        self._hosts = {name: self._hosts.get(name) or _Host() for name in names}

    def record(self, name: str, *, success: bool, now: float) -> bool:
        """Count the result of a call; True if it ejects the endpoint."""
        host = self._hosts.get(name)
        if host is None:
            return False
        if success:
            host.succeeded += 1
            host.consecutive_failures = 0
            return False
        host.failed += 1
        host.consecutive_failures += 1
        limit = self.config.consecutive_failures
        if limit is None or host.consecutive_failures < limit or host.ejected_at is not None:
            return False
        # A longer row of failures is reported once.
        is_first = host.consecutive_failures == limit
        ejected = self._eject(host, DetectionMethod.CONSECUTIVE_FAILURES, now)
        if ejected or is_first:
            overflow = None if ejected else UnenforcedReason.MAX_EJECTION_OVERFLOW
            self._on_ejection((DetectionMethod.CONSECUTIVE_FAILURES, overflow))
        return ejected

    def end_interval(self, now: float) -> None:
        """Run the algorithms over the interval, and readmit endpoints whose time is over."""
        if self.config.success_rate is not None:
            self._check_success_rate(self.config.success_rate, now)
        if self.config.failure_percentage is not None:
            self._check_failure_percentage(self.config.failure_percentage, now)
        for host in self._hosts.values():
            host.succeeded = host.failed = 0
            self._uneject_if_due(host, now)

    def _check_success_rate(self, rule: SuccessRate, now: float) -> None:
        hosts, minimum = self._hosts.values(), rule.request_volume
        judged = [host for host in hosts if host.request_volume >= minimum]
        if len(judged) < max(rule.minimum_hosts, 1):
            return
        rates = [host.success_rate for host in judged]
        import statistics  # It imports Fraction and Decimal, for a rule that few services have.

        least = statistics.fmean(rates) - statistics.pstdev(rates) * rule.stdev_factor
        for host in judged:
            if host.success_rate < least:
                found = DetectionMethod.SUCCESS_RATE
                self._enforce_ejection(host, found, rule.enforcement_percentage, now)

    def _check_failure_percentage(self, rule: FailurePercentage, now: float) -> None:
        if len(self._hosts) < rule.minimum_hosts:
            return
        for host in self._hosts.values():
            enough = host.request_volume >= max(rule.request_volume, 1)
            if enough and host.failed * 100 > rule.threshold * host.request_volume:
                found = DetectionMethod.FAILURE_PERCENTAGE
                self._enforce_ejection(host, found, rule.enforcement_percentage, now)

    def _enforce_ejection(
        self, host: _Host, method: DetectionMethod, percentage: int, now: float
    ) -> None:
        if host.ejected_at is not None:
            return
        unenforced = None
        if self._rng.random() * 100 >= percentage:
            unenforced = UnenforcedReason.ENFORCEMENT_PERCENTAGE
        elif not self._eject(host, method, now):
            unenforced = UnenforcedReason.MAX_EJECTION_OVERFLOW
        self._on_ejection((method, unenforced))

    def _eject(self, host: _Host, method: DetectionMethod, now: float) -> bool:
        count = len(self._hosts)
        allowed = min(max(count * self.config.max_ejection_percent // 100, 1), count - 1)
        if len(self.ejected) >= allowed:
            return False
        host.ejected_at, host.ejected_by = now, method
        host.ejections += 1
        host.ejection_time_multiplier += 1
        host.consecutive_failures = 0
        return True

    def _uneject_if_due(self, host: _Host, now: float) -> None:
        if host.ejected_at is None:
            host.ejection_time_multiplier = max(host.ejection_time_multiplier - 1, 0)
            return
        if now > self._get_ejection_end(host):
            host.ejected_at = None

    def _get_ejection_end(self, host: _Host) -> float:
        assert host.ejected_at is not None
        base = self.config.base_ejection_time
        longest = max(base, self.config.max_ejection_time)
        return host.ejected_at + min(base * host.ejection_time_multiplier, longest)
