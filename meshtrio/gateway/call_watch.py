"""What observes proxied calls: their metrics, and the trackers of clients that watch them.

The router has one observer, or none, so that a call that nothing observes pays for one comparison.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from meshtrio.rpc.method_load import MAX_METHOD_LENGTH, OTHER_METHOD, MethodLoad, MethodTracker
from meshtrio.rpc.stats import LoadRecorder
from meshtrio.services.method_statistics import (
    MAX_GATEWAY_METHODS,
    GatewayKey,
    make_gateway_tracker,
)

_Loads = dict[MethodTracker[GatewayKey], MethodLoad]


class OutcomeRecorder(Protocol):
    """Records the end of one call."""

    def record(self, code: int, seconds: float, /) -> None:
        """Record the status code of the call, and its duration in seconds."""


class CallObserver(Protocol):
    """Observes the calls of a router."""

    def start_call(self, service: str | None, path: str, /) -> OutcomeRecorder:
        """Count the start of a call; `service` is None if the mesh has none for it."""


class _WatchedCall:
    """Records the end of a call for the metrics, if any, and for those who watch."""

    __slots__ = ("loads", "metrics")

    def __init__(self, metrics: OutcomeRecorder | None, loads: _Loads) -> None:
        self.metrics = metrics
        self.loads = loads

    def record(self, code: int, seconds: float, /) -> None:
        for load in self.loads.values():
            load.record(code, seconds)
        if self.metrics is not None:
            self.metrics.record(code, seconds)


class CallWatch(CallObserver):
    """Counts calls for the clients that watch them, and for the metrics.

    Those of reflection, health and so on are left out, as in the load of servers.
    """

    def __init__(self, metrics: CallObserver | None) -> None:
        """`metrics` is None if metrics are off."""
        self._metrics = metrics
        self._trackers: list[MethodTracker[GatewayKey]] = []

    @property
    def tracker_count(self) -> int:
        return len(self._trackers)

    @contextmanager
    def add_tracker(self) -> Iterator[MethodTracker[GatewayKey]]:
        """Count calls with another tracker during the block."""
        tracker = make_gateway_tracker()
        self._trackers.append(tracker)
        try:
            yield tracker
        finally:
            self._trackers.remove(tracker)

    def start_call(self, service: str | None, path: str, /) -> _WatchedCall:
        loads, key = _Loads(), _make_key(service, path)
        if LoadRecorder.is_counted(path[1:]):
            loads = {each: each.start_call(key) for each in self._trackers}
        metrics = None if self._metrics is None else self._metrics.start_call(service, path)
        return _WatchedCall(metrics, loads)

    def adopt_call(self, recorder: OutcomeRecorder | None, service: str, path: str) -> _WatchedCall:
        """Return what records the end of a call that has started before the latest tracker."""
        key = _make_key(service, path)
        metrics, loads = recorder, _Loads()
        counted = _Loads()
        if isinstance(recorder, _WatchedCall):
            metrics, counted = recorder.metrics, recorder.loads
        for tracker in self._trackers if LoadRecorder.is_counted(path[1:]) else ():
            load = counted.get(tracker)
            if load is None:
                load = tracker.get(key)
                load.in_flight += 1
            loads[tracker] = load
        return _WatchedCall(metrics, loads)

    def count_rejected(self, service: str | None, path: str, code: int) -> None:
        """Count a call that was rejected before it was a proxied call.

        Methods of which no call was let through have at most half of the room, since their names
        may be anything.
        """
        key = _make_key(service, path)
        for tracker in self._trackers if LoadRecorder.is_counted(path[1:]) else ():
            is_crowded = key not in tracker and len(tracker) >= MAX_GATEWAY_METHODS // 2
            tracker.count_rejected(tracker.other if is_crowded else key, code)


def _make_key(service: str | None, path: str) -> GatewayKey:
    method = path[1:]
    if service is None or len(method) > MAX_METHOD_LENGTH or not method.isprintable():
        return "", OTHER_METHOD
    return service, method
