"""The result of outlier detection (gRFC A50), as call tracers report it (gRFC A91)."""

from __future__ import annotations

from enum import Enum


class DetectionMethod(Enum):
    """The algorithm that found an endpoint to be an outlier, with the names of gRFC A91."""

    SUCCESS_RATE = "success_rate"
    FAILURE_PERCENTAGE = "failure_percentage"
    CONSECUTIVE_FAILURES = "consecutive_failures"
    """An addition to gRPC's algorithms."""


class UnenforcedReason(Enum):
    """The reason for which an outlier was not ejected, with the names of gRFC A91."""

    ENFORCEMENT_PERCENTAGE = "enforcement_percentage"
    MAX_EJECTION_OVERFLOW = "max_ejection_overflow"


Ejection = tuple[DetectionMethod, UnenforcedReason | None]
"""The algorithm that found an outlier, and the reason if the outlier was not ejected."""
