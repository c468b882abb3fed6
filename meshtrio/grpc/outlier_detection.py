"""Outlier detection settings of a service config (gRFC A50) and the ejections it reports (A91)."""

from __future__ import annotations

from enum import Enum

import attrs

from meshtrio.util.record import Record


@attrs.frozen(eq=False, repr=False)
class SuccessRate(Record):
    """Ejects endpoints whose success rate is far below the mean: `successRateEjection`."""

    stdev_factor: float = 1.9
    """Standard deviations below the mean at which an endpoint is an outlier."""
    enforcement_percentage: int = 100
    """Probability, in percent, that an outlier is ejected."""
    minimum_hosts: int = 5
    """Number of endpoints with `request_volume` calls that the algorithm needs to run."""
    request_volume: int = 100
    """Number of calls in an interval that an endpoint needs to be considered."""


@attrs.frozen(eq=False, repr=False)
class FailurePercentage(Record):
    """Ejects endpoints above a fixed failure rate: `failurePercentageEjection`."""

    threshold: int = 85
    """Percentage of failed calls above which an endpoint is an outlier."""
    enforcement_percentage: int = 100
    """Probability, in percent, that an outlier is ejected."""
    minimum_hosts: int = 5
    """Number of endpoints that the algorithm needs to run."""
    request_volume: int = 50
    """Number of calls in an interval that an endpoint needs to be considered."""


@attrs.frozen(eq=False, repr=False)
class OutlierDetection(Record):
    """Settings of `outlier_detection_experimental`. Times are seconds."""

    interval: float = 10.0
    """Time between two evaluations of the success rate and failure percentage algorithms."""
    base_ejection_time: float = 30.0
    """Ejection time of a first ejection; later ones take a multiple of it."""
    max_ejection_time: float = 300.0
    """Maximum ejection time."""
    max_ejection_percent: int = 10
    """Maximum percentage of ejected endpoints. One of several can always be ejected."""
    success_rate: SuccessRate | None = None
    """Success rate algorithm; None to disable it."""
    failure_percentage: FailurePercentage | None = None
    """Failure percentage algorithm; None to disable it."""
    consecutive_failures: int | None = None
    """Failures in a row that eject an endpoint at once; None for no limit. Not in gRPC; compare
    Envoy's `consecutive_5xx`."""


class DetectionMethod(Enum):
    """The algorithm that found an outlier (gRFC A91)."""

    SUCCESS_RATE = "success_rate"
    FAILURE_PERCENTAGE = "failure_percentage"
    CONSECUTIVE_FAILURES = "consecutive_failures"
    """Not in gRPC, which has no such algorithm."""


class UnenforcedReason(Enum):
    """Why an outlier was not ejected (gRFC A91)."""

    ENFORCEMENT_PERCENTAGE = "enforcement_percentage"
    MAX_EJECTION_OVERFLOW = "max_ejection_overflow"


Ejection = tuple[DetectionMethod, UnenforcedReason | None]
"""The algorithm that found an outlier, and why it was not ejected (None if it was)."""
