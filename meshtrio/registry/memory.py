"""The registry of one mesh, in its memory."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncGenerator, Callable
from typing import Any

import attrs

from meshtrio.client.endpoint import Departure, Endpoint, ServiceState
from meshtrio.registry import UnknownServiceError
from meshtrio.registry.latest_value import LatestValue

_DEPARTURES_KEPT = 16
_MAX_REASON = 1000
"""Characters; reasons may quote what a plugin answered."""
_IDLE_KEPT = 256


class MemoryRegistry:
    """Each service is one value that is replaced whole, so a watcher holds no queue."""

    def __init__(self) -> None:
        self._services: dict[str, LatestValue[ServiceState]] = {}
        self._watched: Counter[str] = Counter()
        self.changes = 0
        """Of what is known of a service, since the mesh was started."""
        self._claim_subscribers: list[Callable[[str], None]] = []
        self._forgotten: set[str] = set()
        """They keep their values: who watches one is told when it is declared again."""

    def declare(self, service: str) -> None:
        self._services.setdefault(service, LatestValue(ServiceState()))
        self._forgotten.discard(service)
        self._change(service, unattended=False)
        self._notify_claimed(service)

    def on_claimed(self, subscriber: Callable[[str], None]) -> None:
        self._claim_subscribers.append(subscriber)

    def _notify_claimed(self, service: str) -> None:
        for subscriber in self._claim_subscribers:
            subscriber(service)

    def forget(self, service: str) -> None:
        if service in self._services:
            self._change(service, unattended=True)
            if not self._services[service].value.endpoints:
                self._forgotten.add(service)

    def configure(self, service: str, service_config: str) -> None:
        self.declare(service)
        self._change(service, service_config=service_config)

    def register(self, service: str, endpoint: Endpoint) -> None:
        if service not in self._services:
            self._drop_the_oldest()
            self._services[service] = LatestValue(ServiceState(unattended=True))
        self._forgotten.discard(service)
        endpoints = self._services[service].value.endpoints
        if any(known.id == endpoint.id for known in endpoints):
            raise ValueError(f"endpoint {endpoint.id!r} of {service} is registered already")
        self._change(service, endpoints=(*endpoints, endpoint))
        if endpoint.owner is None:
            self._notify_claimed(service)

    def _change(self, service: str, **changes: Any) -> None:
        """Replace a service's state, if it is another then: those who watch it are told."""
        value = self._services[service]
        following = attrs.evolve(value.value, **changes)
        self.changes += following != value.value
        value.value = following

    def _drop_the_oldest(self) -> None:
        """Have no more of those that nobody attends to, serves or watches than are to be kept."""
        idle = [
            service
            for service, value in self._services.items()
            if value.value.unattended and not value.value.endpoints and service not in self._watched
        ]
        for service in idle[: max(0, len(idle) + 1 - _IDLE_KEPT)]:
            del self._services[service]
            self._forgotten.discard(service)

    def deregister(self, service: str, departure: Departure) -> None:
        if service not in self._services:
            raise UnknownServiceError(service, self.services())
        state = self._services[service].value
        gone = departure.endpoint_id
        # A later word on the same endpoint replaces the first: stopped, then how it ended. Only
        # the last one has a tail of stderr: every watcher is sent all of the state again and again.
        departures = [
            attrs.evolve(d, stderr_tail=()) for d in state.departures if d.endpoint_id != gone
        ]
        departure = attrs.evolve(departure, reason=departure.reason[:_MAX_REASON])
        self._change(
            service,
            endpoints=tuple(endpoint for endpoint in state.endpoints if endpoint.id != gone),
            departures=(*departures, departure)[-_DEPARTURES_KEPT:],
        )

    def resolve(self, service: str) -> ServiceState:
        if not self.knows(service):
            raise UnknownServiceError(service, self.services())
        state: ServiceState = self._services[service].value
        return state

    def count_endpoints(self) -> int:
        """Of all services."""
        return sum(len(value.value.endpoints) for value in self._services.values())

    def knows(self, service: str) -> bool:
        return service in self._services and service not in self._forgotten

    def services(self) -> tuple[str, ...]:
        return tuple(sorted(self._services.keys() - self._forgotten))

    async def states(self, service: str) -> AsyncGenerator[ServiceState, None]:
        self.resolve(service)
        self._watched[service] += 1
        try:
            value = self._services[service]
            state = value.value
            while True:
                yield state
                state = await value.wait_for_change(state)
        finally:
            self._watched[service] -= 1
            self._watched += Counter()  # drops what is 0
