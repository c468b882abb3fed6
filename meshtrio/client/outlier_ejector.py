"""Ejects the outliers among a channel's endpoints: runs `OutlierDetector` on trio's clock."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

import attrs
import trio

from meshtrio.client.channel_endpoint import ChannelEndpoint
from meshtrio.client.load_balancing.outlier_detection import OutlierDetector
from meshtrio.grpc.outlier_detection import Ejection, OutlierDetection


@attrs.define(eq=False, repr=False)
class OutlierEjector:
    """Sets `is_ejected` of endpoints; the task that ends intervals runs in `nursery`."""

    _nursery: trio.Nursery
    _rng: Random
    """Source of the enforcement percentage."""
    _endpoints: dict[str, ChannelEndpoint]
    """The listed endpoints, by id."""
    _on_change: Callable[[], None]
    """Called when endpoints have been ejected or returned."""
    _on_ejection: Callable[[Ejection], None]
    """Called for each outlier that was found."""
    detector: OutlierDetector | None = None
    """None if outlier detection is off."""
    _interval_scope: trio.CancelScope = attrs.field(factory=trio.CancelScope)

    def apply_config(self, config: OutlierDetection | None) -> None:
        """Start afresh with `config`: no endpoint is ejected."""
        self._interval_scope.cancel()
        self.detector = None if config is None else OutlierDetector(config, self._rng)
        if self.detector is not None:
            self.detector.update_endpoints(self._endpoints)
            self._interval_scope = trio.CancelScope()
            self._nursery.start_soon(self._run_intervals, self.detector, self._interval_scope)
        for endpoint in self._endpoints.values():
            endpoint.is_ejected = False

    def update_endpoints(self) -> None:
        """Follow changes of the listed endpoints."""
        if self.detector is not None:
            self.detector.update_endpoints(self._endpoints)

    def report_result(self, endpoint: ChannelEndpoint, success: bool) -> None:
        """Count the result of an attempt."""
        detector = self.detector
        if detector is not None:
            now = trio.current_time()
            is_ejected = detector.record(endpoint.endpoint.id, success=success, now=now)
            if not success:
                self._report_ejections(detector)
            if is_ejected:
                self._apply_ejections(detector)

    async def _run_intervals(self, detector: OutlierDetector, scope: trio.CancelScope) -> None:
        with scope:
            while True:
                await trio.sleep(detector.config.interval)
                detector.end_interval(trio.current_time())
                self._report_ejections(detector)
                self._apply_ejections(detector)

    def _report_ejections(self, detector: OutlierDetector) -> None:
        for ejection in detector.drain_ejections():
            self._on_ejection(ejection)

    def _apply_ejections(self, detector: OutlierDetector) -> None:
        for endpoint_id, endpoint in self._endpoints.items():
            endpoint.is_ejected = endpoint_id in detector.ejected
        self._on_change()
