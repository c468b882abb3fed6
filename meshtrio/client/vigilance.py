"""Which endpoints of a channel get no calls for a while: outliers, and those that are not well."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from random import Random

import trio

from meshtrio.client.subchannel import Subchannel
from meshtrio.policies.outlier import OutlierDetection, Outliers, Verdict
from meshtrio.structured import start_for_all


class Vigilance:
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
        changes: trio.lowlevel.ParkingLot,
        tell: Callable[[Verdict], None],
    ) -> None:
        self._nursery = nursery
        self._rng = rng
        self._refresh = refresh
        self._changes = changes
        self._tell = tell
        self._listed: dict[str, Subchannel] = {}
        self._outliers: Outliers | None = None
        self._sweeping = trio.CancelScope()
        self._health_service: str | None = None

    @property
    def observes(self) -> bool:
        """Whether `record` wants to know how calls end."""
        return self._outliers is not None

    def adopt(self, outliers: OutlierDetection | None, health_service: str | None) -> None:
        """Go by this from now on, with all endpoints given another chance."""
        self._sweeping.cancel()
        self._outliers = None if outliers is None else Outliers(outliers, self._rng)
        if self._outliers is not None:
            self._outliers.update(self._listed)
            self._sweeping = trio.CancelScope()
            self._nursery.start_soon(self._sweep, self._outliers, self._sweeping)
        self._health_service = health_service
        for subchannel in self._listed.values():
            subchannel.ejected = False
            self._watch_health(subchannel)

    def update(self, listed: dict[str, Subchannel], added: Iterable[Subchannel]) -> None:
        """Take over who is listed now."""
        self._listed = listed
        if self._outliers is not None:
            self._outliers.update(listed)
        for subchannel in added:
            self._watch_health(subchannel)

    # -- outliers ----------------------------------------------------------------------------

    def record(self, subchannel: Subchannel, *, success: bool) -> None:
        """Count how a call ended against its endpoint."""
        if self._outliers is not None:
            now = trio.current_time()
            ejected = self._outliers.record(subchannel.endpoint.id, success=success, now=now)
            if not success:
                self._tell_verdicts(self._outliers)
            if ejected:
                self._follow_ejections(self._outliers)

    async def _sweep(self, outliers: Outliers, scope: trio.CancelScope) -> None:
        with scope:
            while True:
                await trio.sleep(outliers.config.interval)
                outliers.sweep(trio.current_time())
                self._tell_verdicts(outliers)
                self._follow_ejections(outliers)

    def _tell_verdicts(self, outliers: Outliers) -> None:
        for verdict in outliers.take_verdicts():
            self._tell(verdict)

    def _follow_ejections(self, outliers: Outliers) -> None:
        for name, subchannel in self._listed.items():
            subchannel.ejected = name in outliers.ejected
        self._refresh()

    # -- health ------------------------------------------------------------------------------

    def _watch_health(self, subchannel: Subchannel) -> None:
        """Ask the endpoint's server after the service that the config names, if it names one."""
        service = self._health_service
        subchannel.health.cancel()
        subchannel.healthy = service is None
        if service is not None:
            subchannel.health = trio.CancelScope()
            start_for_all(
                self._nursery, self._follow_health, subchannel, service, subchannel.health
            )

    async def _follow_health(
        self, subchannel: Subchannel, service: str, scope: trio.CancelScope
    ) -> None:
        from meshtrio.client.health_watch import watch_health  # few services name one

        def tell(healthy: bool) -> None:
            if healthy is not subchannel.healthy:
                subchannel.healthy = healthy
                self._refresh()

        with scope:
            while True:
                await watch_health(subchannel.link, service, tell)
                tell(False)
                await self._changes.park()
