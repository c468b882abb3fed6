"""The registry of one mesh, in its memory."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing

import attrs
from trio_util import AsyncValue

from meshtrio.client.endpoint import Departure, Endpoint, ServiceState
from meshtrio.registry import UnknownServiceError

_DEPARTURES_KEPT = 16


class MemoryRegistry:
    """Each service is one value that is replaced whole, so a watcher holds no queue."""

    def __init__(self) -> None:
        self._services: dict[str, AsyncValue[ServiceState]] = {}
        self._forgotten: set[str] = set()
        """They keep their values: who watches one is told when it is declared again."""

    def declare(self, service: str) -> None:
        self._services.setdefault(service, AsyncValue(ServiceState()))
        self._forgotten.discard(service)

    def forget(self, service: str) -> None:
        value = self._services.get(service)
        if value is not None and not value.value.endpoints:
            self._forgotten.add(service)

    def configure(self, service: str, service_config: str) -> None:
        self.declare(service)
        state = self._services[service].value
        self._services[service].value = attrs.evolve(state, service_config=service_config)

    def register(self, service: str, endpoint: Endpoint) -> None:
        self.declare(service)
        state = self._services[service].value
        if any(known.id == endpoint.id for known in state.endpoints):
            raise ValueError(f"endpoint {endpoint.id!r} of {service} is registered already")
        endpoints = (*state.endpoints, endpoint)
        self._services[service].value = attrs.evolve(state, endpoints=endpoints)

    def deregister(self, service: str, departure: Departure) -> None:
        if service not in self._services:
            raise UnknownServiceError(service, self.services())
        state = self._services[service].value
        gone = departure.endpoint_id
        # A later word on the same endpoint replaces the first: stopped, then how it ended.
        departures = [d for d in state.departures if d.endpoint_id != gone]
        self._services[service].value = attrs.evolve(
            state,
            endpoints=tuple(endpoint for endpoint in state.endpoints if endpoint.id != gone),
            departures=(*departures, departure)[-_DEPARTURES_KEPT:],
        )

    def resolve(self, service: str) -> ServiceState:
        value = self._services.get(service)
        if value is None or service in self._forgotten:
            raise UnknownServiceError(service, self.services())
        state: ServiceState = value.value
        return state

    def services(self) -> tuple[str, ...]:
        return tuple(sorted(self._services.keys() - self._forgotten))

    async def states(self, service: str) -> AsyncGenerator[ServiceState, None]:
        self.resolve(service)
        async with aclosing(self._services[service].eventual_values()) as states:
            async for state in states:
                yield state
