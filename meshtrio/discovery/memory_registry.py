"""The registry of one mesh, in its memory."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncGenerator, Callable
from typing import Any

import attrs
import trio

from meshtrio.discovery.endpoint import Endpoint
from meshtrio.discovery.exit_info import ExitInfo
from meshtrio.discovery.latest_value import LatestValue
from meshtrio.discovery.registry import UnknownServiceError
from meshtrio.discovery.service_state import ServiceState

_MAX_EXIT_INFOS = 16
_MAX_REASON_LENGTH = 1000
"""Maximum length in characters: reasons may quote responses of plugins."""
_MAX_IDLE_SERVICES = 256


class MemoryRegistry:
    """A `Registry` in which each service is one immutable value, so that watchers need no queue."""

    def __init__(self) -> None:
        self._services: dict[str, LatestValue[ServiceState]] = {}
        self._watcher_counts: Counter[str] = Counter()
        self.revision = 0
        """Number of changes of any service since the mesh was started."""
        self._changed = trio.lowlevel.ParkingLot()
        self._claim_subscribers: list[Callable[[str], None]] = []
        self._removed: set[str] = set()
        """Services that were removed but keep their value for watchers."""

    def add_service(self, service: str) -> None:
        self._services.setdefault(service, LatestValue(ServiceState()))
        self._removed.discard(service)
        self._update(service, unmanaged=False)
        self._notify_claim_subscribers(service)

    def subscribe_to_claims(self, subscriber: Callable[[str], None]) -> None:
        self._claim_subscribers.append(subscriber)

    def _notify_claim_subscribers(self, service: str) -> None:
        for subscriber in self._claim_subscribers:
            subscriber(service)

    def remove_service(self, service: str) -> None:
        if service in self._services:
            self._update(service, unmanaged=True)
            if not self._services[service].value.endpoints:
                self._removed.add(service)

    def set_service_config(self, service: str, service_config: str) -> None:
        self.add_service(service)
        self._update(service, service_config=service_config)

    def register(self, service: str, endpoint: Endpoint) -> None:
        if service not in self._services:
            self._evict_idle()
            self._services[service] = LatestValue(ServiceState(unmanaged=True))
        self._removed.discard(service)
        endpoints = self._services[service].value.endpoints
        if any(known.id == endpoint.id for known in endpoints):
            raise ValueError(f"endpoint {endpoint.id!r} of {service} is registered already")
        self._update(service, endpoints=(*endpoints, endpoint))
        if endpoint.server_uid is None:
            self._notify_claim_subscribers(service)

    def _update(self, service: str, **changes: Any) -> None:
        """Replace a service's state; wake its watchers if it differs."""
        value = self._services[service]
        following = attrs.evolve(value.value, **changes)
        if following != value.value:
            self.revision += 1
            self._changed.unpark_all()
        value.value = following

    def _evict_idle(self) -> None:
        """Drop the oldest unmanaged services that have neither endpoints nor watchers."""
        states = {name: value.value for name, value in self._services.items()}
        idle = [
            name
            for name, state in states.items()
            if state.unmanaged and not state.endpoints and name not in self._watcher_counts
        ]
        for service in idle[: max(0, len(idle) + 1 - _MAX_IDLE_SERVICES)]:
            del self._services[service]
            self._removed.discard(service)

    def deregister(self, service: str, exit_info: ExitInfo) -> None:
        if service not in self._services:
            raise UnknownServiceError(service, self.services())
        state = self._services[service].value
        endpoint_id = exit_info.endpoint_id
        # A later exit info of an endpoint replaces the first: "stopped", then the exit status. Only
        # the latest keeps its stderr: the whole state is sent to every watcher at each change.
        others = (info for info in state.exit_infos if info.endpoint_id != endpoint_id)
        earlier = [attrs.evolve(info, stderr_tail=()) for info in others]
        exit_info = attrs.evolve(exit_info, reason=exit_info.reason[:_MAX_REASON_LENGTH])
        self._update(
            service,
            endpoints=tuple(each for each in state.endpoints if each.id != endpoint_id),
            exit_infos=(*earlier, exit_info)[-_MAX_EXIT_INFOS:],
        )

    def resolve(self, service: str) -> ServiceState:
        if not self.has_service(service):
            raise UnknownServiceError(service, self.services())
        return self._services[service].value

    def count_endpoints(self) -> int:
        """Return the number of endpoints of all services."""
        return sum(len(value.value.endpoints) for value in self._services.values())

    def has_service(self, service: str) -> bool:
        return service in self._services and service not in self._removed

    def services(self) -> tuple[str, ...]:
        return tuple(sorted(self._services.keys() - self._removed))

    async def wait_changed(self, revision: int) -> None:
        while self.revision == revision:
            await self._changed.park()

    async def watch(self, service: str) -> AsyncGenerator[ServiceState, None]:
        self.resolve(service)
        self._watcher_counts[service] += 1
        try:
            value = self._services[service]
            state = value.value
            while True:
                yield state
                state = await value.wait_for_change(state)
        finally:
            self._watcher_counts[service] -= 1
            self._watcher_counts += Counter()  # drops counts of 0
