"""Outlier detection: endpoints that fail more than others get no calls for a while (gRFC A50).

Beside the two algorithms of A50, which judge an interval when it is over, an endpoint can be
ejected at once after so many failures in a row, as Envoy does.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from enum import Enum
from random import Random

import attrs


@attrs.frozen
class SuccessRate:
    """Ejects those whose success rate lies so many standard deviations below the mean."""

    stdev_factor: float = 1.9
    enforcement_percentage: int = 100
    """The chance that one is ejected when it could be."""
    minimum_hosts: int = 5
    """With so many calls; with fewer of them, nobody is judged."""
    request_volume: int = 100
    """Calls in an interval that an endpoint is judged by."""


@attrs.frozen
class FailurePercentage:
    """Ejects those that fail more than so many calls of a hundred, whatever others do."""

    threshold: int = 85
    enforcement_percentage: int = 100
    minimum_hosts: int = 5
    request_volume: int = 50


@attrs.frozen
class OutlierDetection:
    """Times are seconds."""

    interval: float = 10.0
    base_ejection_time: float = 30.0
    """Times the number of ejections, which is forgotten one by one."""
    max_ejection_time: float = 300.0
    max_ejection_percent: int = 10
    """Of the endpoints; one may always be, unless it is the only one."""
    success_rate: SuccessRate | None = None
    failure_percentage: FailurePercentage | None = None
    consecutive_failures: int | None = None


class Detection(Enum):
    """What found an endpoint to fail more than others, in the words of gRFC A91."""

    SUCCESS_RATE = "success_rate"
    FAILURE_PERCENTAGE = "failure_percentage"
    CONSECUTIVE_FAILURES = "consecutive_failures"
    """Ours: gRPC has no such rule."""


class Unenforced(Enum):
    """Why an endpoint that was found so was not ejected."""

    BY_LOT = "enforcement_percentage"
    TOO_MANY = "max_ejection_overflow"


Verdict = tuple[Detection, Unenforced | None]
"""What was found, and why it had no consequence, if it had none."""


@attrs.define
class _Host:
    succeeded: int = 0
    failed: int = 0
    failed_in_a_row: int = 0
    ejected_at: float | None = None
    multiplier: int = 0

    @property
    def volume(self) -> int:
        return self.succeeded + self.failed

    @property
    def success_rate(self) -> float:
        return self.succeeded / self.volume


class Outliers:
    """What is known of the endpoints of one channel, by their names."""

    def __init__(self, config: OutlierDetection, rng: Random) -> None:
        self.config = config
        self._rng = rng
        self._hosts: dict[str, _Host] = {}
        self._verdicts: list[Verdict] = []

    def take_verdicts(self) -> list[Verdict]:
        """Those since it was last asked: whoever records and sweeps is to ask after it."""
        verdicts, self._verdicts = self._verdicts, []
        return verdicts

    @property
    def ejected(self) -> frozenset[str]:
        return frozenset(n for n, host in self._hosts.items() if host.ejected_at is not None)

    def update(self, names: Iterable[str]) -> None:
        """The endpoints there are now; what is known of the others is forgotten."""
        self._hosts = {name: self._hosts.get(name) or _Host() for name in names}

    def record(self, name: str, *, success: bool, now: float) -> bool:
        """Count the outcome of a call; True if that ejects the endpoint."""
        host = self._hosts.get(name)
        if host is None:
            return False
        if success:
            host.succeeded += 1
            host.failed_in_a_row = 0
            return False
        host.failed += 1
        host.failed_in_a_row += 1
        most = self.config.consecutive_failures
        if most is None or host.failed_in_a_row < most or host.ejected_at is not None:
            return False
        # Of a row that goes on, only its first verdict counts.
        counts = host.failed_in_a_row == most
        ejected = self._eject(host, now)
        if ejected or counts:
            overflow = None if ejected else Unenforced.TOO_MANY
            self._verdicts.append((Detection.CONSECUTIVE_FAILURES, overflow))
        return ejected

    def sweep(self, now: float) -> None:
        """Judge the interval that is over, and let those back whose time is."""
        if self.config.success_rate is not None:
            self._by_success_rate(self.config.success_rate, now)
        if self.config.failure_percentage is not None:
            self._by_failure_percentage(self.config.failure_percentage, now)
        for host in self._hosts.values():
            host.succeeded = host.failed = 0
            self._release(host, now)

    def _by_success_rate(self, rule: SuccessRate, now: float) -> None:
        judged = [host for host in self._hosts.values() if host.volume >= rule.request_volume]
        if len(judged) < max(rule.minimum_hosts, 1):
            return
        rates = [host.success_rate for host in judged]
        least = statistics.fmean(rates) - statistics.pstdev(rates) * rule.stdev_factor
        for host in judged:
            if host.success_rate < least:
                self._judge(host, Detection.SUCCESS_RATE, rule.enforcement_percentage, now)

    def _by_failure_percentage(self, rule: FailurePercentage, now: float) -> None:
        if len(self._hosts) < rule.minimum_hosts:
            return
        for host in self._hosts.values():
            enough = host.volume >= max(rule.request_volume, 1)
            if enough and host.failed * 100 > rule.threshold * host.volume:
                found = Detection.FAILURE_PERCENTAGE
                self._judge(host, found, rule.enforcement_percentage, now)

    def _judge(self, host: _Host, found: Detection, percentage: int, now: float) -> None:
        if host.ejected_at is not None:
            return
        unenforced = None
        if self._rng.random() * 100 >= percentage:
            unenforced = Unenforced.BY_LOT
        elif not self._eject(host, now):
            unenforced = Unenforced.TOO_MANY
        self._verdicts.append((found, unenforced))

    def _eject(self, host: _Host, now: float) -> bool:
        count = len(self._hosts)
        allowed = min(max(count * self.config.max_ejection_percent // 100, 1), count - 1)
        if len(self.ejected) >= allowed:
            return False
        host.ejected_at = now
        host.multiplier += 1
        host.failed_in_a_row = 0
        return True

    def _release(self, host: _Host, now: float) -> None:
        if host.ejected_at is None:
            host.multiplier = max(host.multiplier - 1, 0)
            return
        config = self.config
        longest = max(config.base_ejection_time, config.max_ejection_time)
        if now > host.ejected_at + min(config.base_ejection_time * host.multiplier, longest):
            host.ejected_at = None
