"""Metrics of the calls that the gateway proxies.

For plugins that measure nothing themselves these are the only ones. Labels are bounded: services
beyond `MAX_MEASURED_SERVICES`, and calls to none, are labelled "other".
"""

from __future__ import annotations

from meshtrio.telemetry.metric_families import MetricFamily
from meshtrio.telemetry.metrics.call_metrics import OTHER
from meshtrio.telemetry.metrics.call_recorder import DURATION, CallRecorder, call_families

MAX_MEASURED_SERVICES = 1000


class GatewayMetrics:
    """Measures proxied calls by the service that they are sent to."""

    def __init__(self) -> None:
        self._services: dict[str | None, CallRecorder] = {}
        """By service; None for all others."""

    def start_call(self, service: str | None) -> CallRecorder:
        """Count the start of a call; `service` is None if unknown.

        Returns the recorder of its end: of its status, and its duration in seconds.
        """
        calls = self._services.get(service or None) or self._add_service(service)
        calls.started += 1
        return calls

    def _add_service(self, service: str | None) -> CallRecorder:
        full = len(self._services) >= MAX_MEASURED_SERVICES
        key = None if full or not service else service
        if key not in self._services:
            target = OTHER if key is None else f"mesh:///{key}"
            self._services[key] = CallRecorder((("grpc.target", target),), [DURATION])
        return self._services[key]

    def collect(self) -> list[MetricFamily]:
        """Return the families, as of now."""
        services = list(self._services.values())
        text, subject = "The calls that were passed on", "RPC that was passed on"
        return call_families("mesh.gateway.call", "{call}", text, subject, services, [DURATION])
