"""Which endpoints of a channel get no calls for a while: outliers, and those that are not well."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from random import Random

import trio

from meshtrio.client.channel_endpoint import ChannelEndpoint
from meshtrio.client.load_balancing.outlier_detection import OutlierDetector
from meshtrio.grpc.outlier_detection import Ejection, OutlierDetection
from meshtrio.util.concurrency import start_soon_without_context


class EndpointMonitor:
    """By a service's config, which may change; tasks run in the channel's nursery.

    `refresh` is called when an endpoint may be ready that was not, or the other way round, and
    who waits in `changes` is woken when a connection comes or goes. `tell` is told of each endpoint
    that was found to fail more than others.
    """

    def __init__(
        self,
        nursery: trio.Nursery,
        rng: Random,
        refresh: Callable[[], None],
        state_changed: trio.lowlevel.ParkingLot,
        on_ejection: Callable[[Ejection], None],
    ) -> None:
        self._nursery = nursery
        self._rng = rng
        self._refresh = refresh
        self._state_changed = state_changed
        self._on_ejection = on_ejection
        self._endpoints: dict[str, ChannelEndpoint] = {}
        self._outlier_detector: OutlierDetector | None = None
        self._interval_scope = trio.CancelScope()
        self._health_service: str | None = None

    @property
    def wants_results(self) -> bool:
        """Whether `record` wants to know how calls end."""
        return self._outlier_detector is not None

    def apply_config(
        self, outlier_detection: OutlierDetection | None, health_service: str | None
    ) -> None:
        """Go by this from now on, with all endpoints given another chance."""
        self._interval_scope.cancel()
        self._outlier_detector = (
            None if outlier_detection is None else OutlierDetector(outlier_detection, self._rng)
        )
        if self._outlier_detector is not None:
            self._outlier_detector.update_endpoints(self._endpoints)
            self._interval_scope = trio.CancelScope()
            self._nursery.start_soon(
                self._run_intervals, self._outlier_detector, self._interval_scope
            )
        self._health_service = health_service
        for subchannel in self._endpoints.values():
            subchannel.is_ejected = False
            self._start_health_watch(subchannel)

    def update_endpoints(
        self, endpoints: dict[str, ChannelEndpoint], added: Iterable[ChannelEndpoint]
    ) -> None:
        """Take over who is listed now."""
        self._endpoints = endpoints
        if self._outlier_detector is not None:
            self._outlier_detector.update_endpoints(endpoints)
        for subchannel in added:
            self._start_health_watch(subchannel)

    # -- outliers ----------------------------------------------------------------------------

    def report_result(self, endpoint: ChannelEndpoint, *, success: bool) -> None:
        """Count how a call ended against its endpoint."""
        if self._outlier_detector is not None:
            now = trio.current_time()
            ejected = self._outlier_detector.record(endpoint.endpoint.id, success=success, now=now)
            if not success:
                self._report_ejections(self._outlier_detector)
            if ejected:
                self._apply_ejections(self._outlier_detector)

    async def _run_intervals(self, detector: OutlierDetector, scope: trio.CancelScope) -> None:
        with scope:
            while True:
                await trio.sleep(detector.config.interval)
                detector.end_interval(trio.current_time())
                self._report_ejections(detector)
                self._apply_ejections(detector)

    def _report_ejections(self, detector: OutlierDetector) -> None:
        for verdict in detector.drain_ejections():
            self._on_ejection(verdict)

    def _apply_ejections(self, detector: OutlierDetector) -> None:
        for name, subchannel in self._endpoints.items():
            subchannel.is_ejected = name in detector.ejected
        self._refresh()

    # -- health ------------------------------------------------------------------------------

    def _start_health_watch(self, endpoint: ChannelEndpoint) -> None:
        """Ask the endpoint's server after the service that the config names, if it names one."""
        service = self._health_service
        endpoint.health_watch_scope.cancel()
        endpoint.is_healthy = service is None
        if service is not None:
            endpoint.health_watch_scope = trio.CancelScope()
            start_soon_without_context(
                self._nursery,
                self._run_health_watch,
                endpoint,
                service,
                endpoint.health_watch_scope,
            )

    async def _run_health_watch(
        self, endpoint: ChannelEndpoint, service: str, scope: trio.CancelScope
    ) -> None:
        from meshtrio.client.health_watch import watch_health  # few services name one

        def tell(healthy: bool) -> None:
            if healthy is not endpoint.is_healthy:
                endpoint.is_healthy = healthy
                self._refresh()

        with scope:
            while True:
                await watch_health(endpoint.subchannel, service, tell)
                tell(False)
                await self._state_changed.park()
