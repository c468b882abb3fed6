"""The metrics of calls that a gateway passes on: the only ones there are of those to plugins that
measure nothing themselves.

Labels are bounded: so many services are told apart, and what goes beyond, or to none, is "other".
"""

from __future__ import annotations

from meshtrio.telemetry.families import Family, Kind, Point
from meshtrio.telemetry.metrics.calls import OTHER, SECONDS, Calls, histograms_of
from meshtrio.telemetry.metrics.ended import LONG

MOST_SERVICES = 1000
_ABOUT = "mesh.gateway.call"


class PassedCalls:
    """Counts calls, each for the service of the mesh that it goes to."""

    def __init__(self) -> None:
        self._services: dict[str, Calls] = {}

    def begin(self, service: str | None) -> Calls:
        """A call goes to a service, None where it has come to none; see `end`."""
        known = self._services.get(service or OTHER)
        calls = known or self._add(service)
        calls.started += 1
        return calls

    def end(self, calls: Calls, code: int, seconds: float) -> None:
        """A call that has begun ended, with a status, so many seconds after it came."""
        calls.waiting += (code, seconds)
        if len(calls.waiting) >= LONG:
            calls.ended.sort()

    def _add(self, service: str | None) -> Calls:
        full = len(self._services) >= MOST_SERVICES
        key, target = (service, f"mesh:///{service}") if service and not full else (OTHER, OTHER)
        if key not in self._services:
            self._services[key] = Calls((("grpc.target", target),), [SECONDS])
        return self._services[key]

    def families(self) -> list[Family]:
        """What was counted until now."""
        services = list(self._services.values())
        started = [Point(calls.labels, calls.started) for calls in services]
        text = "The calls that were passed on, including those that have not completed."
        return [
            Family(f"{_ABOUT}.started", Kind.COUNTER, "{call}", text, started),
            *histograms_of(_ABOUT, "RPC that was passed on", services, [SECONDS]),
        ]
