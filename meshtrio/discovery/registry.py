"""The registry of a mesh: its services and their endpoints, in memory."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Mapping
from contextlib import aclosing
from enum import Enum
from typing import Any, Generic, TypeVar

import purerpc
import trio

from meshtrio.discovery.endpoint import Endpoint, ExitInfo, ServiceState

_MAX_EXIT_INFOS = 16
_MAX_REASON_LENGTH = 1000
"""Maximum length in characters: reasons may quote responses of plugins."""
_MAX_IDLE_SERVICES = 256
_MAX_LISTED_NAMES = 50
"""Maximum number of names in an error message: thousands may be registered."""
_WAKEUPS_PER_CHANGE = 32
"""Number of watchers that run in one iteration of the event loop; together they take about 2 ms."""

T = TypeVar("T")


class LatestValue(Generic[T]):
    """A value that is replaced as a whole, and the tasks that wait for another one.

    It needs no queue: a slow watcher skips values. A change wakes a few watchers, each of which
    wakes the next: if 4,096 watchers ran in one iteration of the event loop, all other tasks would
    wait for a quarter of a second.
    """

    def __init__(self, value: T) -> None:
        self._value = value
        self.watcher_count = 0
        """Number of tasks that follow the value, whether or not they wait just now."""
        self._changes = 0
        self._waiting = trio.lowlevel.ParkingLot()

    @property
    def value(self) -> T:
        """The current value. Setting an equal one wakes no watcher."""
        return self._value

    @value.setter
    def value(self, value: T) -> None:
        if value != self._value:
            self._value = value
            self._changes += 1
            self._waiting.unpark(count=_WAKEUPS_PER_CHANGE)

    async def wait_for_change(self, seen: T) -> T:
        """Wait until the value is another object than `seen`; return it.

        Cancellation: while it waits. It is no checkpoint if the value has changed already.
        """
        while self._value is seen:
            changes = self._changes
            await self._waiting.park()
            if self._changes != changes:  # If not, those behind have seen the value as well.
                self._waiting.unpark()
        return self._value


class ChangedServices:
    """The names of services that have changed, for one task that processes them."""

    def __init__(self) -> None:
        self.services: set[str] = set()
        """Those that were not processed yet, from which the task removes them."""
        self._waiting = trio.lowlevel.ParkingLot()

    def mark(self, service: str) -> None:
        """Add a service."""
        self.services.add(service)
        self._waiting.unpark_all()

    async def wait(self) -> None:
        """Wait until there is a service."""
        while not self.services:
            await self._waiting.park()


class Manager(Enum):
    """Who sees to it that a service has endpoints."""

    THIS_MESH = "this mesh"
    """A plugin or a table of the config."""
    OTHER_NODES = "other nodes"


class Registry:
    """The services of one mesh, each an immutable value, so that watchers need no queue."""

    def __init__(self) -> None:
        self._services: dict[str, LatestValue[ServiceState]] = {}
        self.revision = 0
        """Number of changes of any service since the mesh was started."""
        self._changed = trio.lowlevel.ParkingLot()
        self.on_claim: Callable[[str], None] = lambda service: None
        """Called with the name of each service that is declared, or that gets an endpoint without a
        `server_uid`, as registered by the mesh's own user."""
        self.withdraw: Callable[[], Awaitable[None]] = trio.lowlevel.checkpoint
        """Waits until other nodes know which endpoints are gone, for a short time at most."""
        self._followers: list[ChangedServices] = []
        self._managers: dict[str, set[Manager]] = {}
        self.on_demand: Callable[[str], None] = lambda service: None
        """Called with a service whose plugin is idle, and for whose endpoint a call waits."""
        self.connect_failure_watchers: list[Callable[[str, str], None]] = []
        """Called with a service and the id of an endpoint that a client could not connect to."""
        self._missing_reasons: Mapping[str, str] = {}
        self._removed: set[str] = set()
        """Services that were removed but keep their value for watchers."""

    def add_service(self, service: str, manager: Manager = Manager.THIS_MESH) -> None:
        """Declare a managed service: callers wait while it has no endpoint."""
        if not self.has_service(service):
            self._services.setdefault(service, LatestValue(ServiceState()))
            self._removed.discard(service)
            self._mark_changed(service)
        self._managers.setdefault(service, set()).add(manager)
        self._update(service, unmanaged=False)
        if manager is Manager.THIS_MESH:
            self.on_claim(service)

    def remove_service(self, service: str, manager: Manager = Manager.THIS_MESH) -> None:
        """Make a service unmanaged, and remove it if it has no endpoints.

        It stays if another manager has declared it. Watchers of a removed service stay, and see it
        when it is declared again.
        """
        if service in self._services:
            if manager is Manager.THIS_MESH:
                self._update(service, on_demand=False)
            managers = self._managers.pop(service, set()) - {manager}
            if managers:
                self._managers[service] = managers
                return
            self._update(service, unmanaged=True)
            if not self._services[service].value.endpoints:
                self._removed.add(service)
                self._mark_changed(service)

    def explain_missing(self, reasons: Mapping[str, str]) -> None:
        """Set the errors for services that callers may expect, and that do not exist, by name."""
        self._missing_reasons = reasons

    def set_service_config(self, service: str, service_config: str) -> None:
        """Set the service config for clients, in gRPC's JSON form; "" for the defaults."""
        self.add_service(service)
        self._update(service, service_config=service_config)

    def register(self, service: str, endpoint: Endpoint) -> None:
        """Add an endpoint to a service, which is unmanaged unless it was declared.

        Raises:
            ValueError: The service has an endpoint with that id already.
        """
        if service not in self._services:
            self._evict_idle()
            self._services[service] = LatestValue(ServiceState(unmanaged=True))
        self._removed.discard(service)
        endpoints = self._services[service].value.endpoints
        if any(known.id == endpoint.id for known in endpoints):
            raise ValueError(f"endpoint {endpoint.id!r} of {service} is registered already")
        self._update(service, endpoints=(*endpoints, endpoint))
        if endpoint.server_uid is None:
            self.on_claim(service)

    def set_node_endpoints(
        self, service: str, endpoints: Iterable[Endpoint], describe_end: Callable[[Endpoint], str]
    ) -> None:
        """Replace all endpoints that other nodes have of a managed service, in one change.

        `describe_end` returns the reason why an endpoint is gone that is not among them.
        """
        state, found = self._services[service].value, tuple(endpoints)
        kept = {endpoint.id for endpoint in found}
        gone = [each for each in state.endpoints if each.node and each.id not in kept]
        ends = [ExitInfo(each.id, describe_end(each)[:_MAX_REASON_LENGTH]) for each in gone]
        own = tuple(each for each in state.endpoints if not each.node)
        earlier = tuple(info for info in state.exit_infos if info.endpoint_id not in kept)
        infos = (*earlier, *ends)[-_MAX_EXIT_INFOS:]
        self._update(service, endpoints=own + found, exit_infos=infos)

    def update_endpoint(self, service: str, endpoint: Endpoint) -> None:
        """Replace the endpoint with the same id, whose weight or priority has changed."""
        endpoints = self._services[service].value.endpoints
        replaced = (endpoint if known.id == endpoint.id else known for known in endpoints)
        self._update(service, endpoints=tuple(replaced))

    def report_connect_failure(self, service: str, endpoint_id: str) -> None:
        """Report that a client could not connect to an endpoint, which may be gone for good."""
        for on_connect_failure in self.connect_failure_watchers:
            on_connect_failure(service, endpoint_id)

    def set_on_demand(self, service: str, *, on_demand: bool) -> None:
        """Set whether calls that wait for an endpoint of a managed service are to be reported."""
        if self.has_service(service):
            self._update(service, on_demand=on_demand)

    def report_demand(self, service: str) -> None:
        """Report that a call waits for an endpoint of a service, whose plugin may be idle."""
        if self.has_service(service) and self._services[service].value.on_demand:
            self.on_demand(service)

    def _update(self, service: str, **changes: Any) -> None:
        """Replace a service's state; wake its watchers if it differs."""
        value = self._services[service]
        following = value.value.replace(**changes)
        if following != value.value:
            self._mark_changed(service)
        value.value = following

    def _mark_changed(self, service: str) -> None:
        self.revision += 1
        self._changed.unpark_all()
        for follower in self._followers:
            follower.mark(service)

    def follow_changes(self) -> ChangedServices:
        """Return an object that collects the names of all services that change from now on."""
        follower = ChangedServices()
        self._followers.append(follower)
        return follower

    def _evict_idle(self) -> None:
        """Drop the oldest unmanaged services that have neither endpoints nor watchers."""
        idle = [
            name
            for name, each in self._services.items()
            if each.value.unmanaged and not each.value.endpoints and not each.watcher_count
        ]
        for service in idle[: max(0, len(idle) + 1 - _MAX_IDLE_SERVICES)]:
            del self._services[service]
            self._removed.discard(service)
            self._mark_changed(service)

    def deregister(self, service: str, exit_info: ExitInfo) -> None:
        """Remove an endpoint. If it is gone already, only replace its exit info."""
        if service not in self._services:
            raise self._make_unknown_error(service)
        state = self._services[service].value
        endpoint_id = exit_info.endpoint_id
        # A later exit info of an endpoint replaces the first: "stopped", then the exit status. Only
        # the latest keeps its stderr: the whole state is sent to every watcher at each change.
        others = (info for info in state.exit_infos if info.endpoint_id != endpoint_id)
        earlier = [info.replace(stderr_tail=()) for info in others]
        exit_info = exit_info.replace(reason=exit_info.reason[:_MAX_REASON_LENGTH])
        self._update(
            service,
            endpoints=tuple(each for each in state.endpoints if each.id != endpoint_id),
            exit_infos=(*earlier, exit_info)[-_MAX_EXIT_INFOS:],
        )
        # The last endpoint of a plugin whose service a reload has taken away.
        is_unmanaged = service in self._missing_reasons and service not in self._managers
        if is_unmanaged and not self._services[service].value.endpoints:
            self._removed.add(service)

    def restore_exit_infos(self, service: str, infos: tuple[ExitInfo, ...]) -> None:
        """Set how earlier endpoints of a service have ended, as it was before an upgrade."""
        if service in self._services:
            self._update(service, exit_infos=infos)

    def resolve(self, service: str) -> ServiceState:
        """Return the current state of a service. Raises NotFoundError."""
        if not self.has_service(service):
            raise self._make_unknown_error(service)
        return self._services[service].value

    def _make_unknown_error(self, service: str) -> purerpc.NotFoundError:
        """Make the error for a service that was neither declared nor registered."""
        if (reason := self._missing_reasons.get(service)) is not None:
            return purerpc.NotFoundError(reason)
        known = self.services()
        names = ", ".join(known[:_MAX_LISTED_NAMES]) or "none"
        if len(known) > _MAX_LISTED_NAMES:
            names += f" and {len(known) - _MAX_LISTED_NAMES} more"
        return purerpc.NotFoundError(f"unknown service {service!r}; known services: {names}")

    def count_endpoints(self) -> int:
        """Return the number of endpoints of all services."""
        return sum(len(value.value.endpoints) for value in self._services.values())

    def has_service(self, service: str) -> bool:
        """Return whether a service is known."""
        return service in self._services and service not in self._removed

    def is_managed(self, service: str) -> bool:
        """Return whether a plugin or the config declares a service."""
        return self.has_service(service) and not self._services[service].value.unmanaged

    def services(self) -> tuple[str, ...]:
        """Return the names of all known services, sorted."""
        return tuple(sorted(self._services.keys() - self._removed))

    async def wait_changed(self, revision: int) -> None:
        """Wait until `revision` differs from the given one."""
        while self.revision == revision:
            await self._changed.park()

    async def watch(self, service: str) -> AsyncGenerator[ServiceState, None]:
        """Yield the state of a service at once and after each change.

        States in between may be skipped, the latest never is. Raises NotFoundError.
        """
        self.resolve(service)
        value = self._services[service]
        value.watcher_count += 1
        try:
            state = value.value
            while True:
                yield state
                state = await value.wait_for_change(state)
        finally:
            value.watcher_count -= 1


async def watch_service(
    registry: Registry, service: str, on_update: Callable[[ServiceState], None]
) -> None:
    """Call `on_update` with each state of a service until cancelled.

    Raises NotFoundError.
    """
    async with aclosing(registry.watch(service)) as states:
        async for state in states:
            on_update(state)


async def watch_own_endpoints(
    registry: Registry, service: str, on_update: Callable[[ServiceState], None]
) -> None:
    """Do as `watch_service`, with states that have the endpoints of this mesh only."""
    await watch_service(registry, service, lambda state: on_update(state.without_other_nodes()))
