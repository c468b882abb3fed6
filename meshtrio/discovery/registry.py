"""The interface of a registry: the services of a mesh and their endpoints."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Protocol

from meshtrio.discovery.endpoint import Endpoint
from meshtrio.discovery.exit_info import ExitInfo
from meshtrio.discovery.service_state import ServiceState

_MAX_LISTED_NAMES = 50
"""Maximum number of names in an error message: thousands may be registered."""


class UnknownServiceError(LookupError):
    """The registry does not know a service: it was neither declared nor registered."""

    def __init__(self, service: str, known: tuple[str, ...]) -> None:
        names = ", ".join(known[:_MAX_LISTED_NAMES]) or "none"
        if len(known) > _MAX_LISTED_NAMES:
            names += f" and {len(known) - _MAX_LISTED_NAMES} more"
        super().__init__(f"unknown service {service!r}; known services: {names}")


class Registry(Protocol):
    """The services of a mesh. `MemoryRegistry` implements it."""

    revision: int
    """Number of changes of any service since the mesh was started."""

    def add_service(self, service: str) -> None:
        """Declare a managed service: callers wait while it has no endpoint."""

    def remove_service(self, service: str) -> None:
        """Make a service unmanaged, and remove it if it has no endpoints.

        Watchers of a removed service stay, and see it when it is declared again.
        """

    def set_service_config(self, service: str, service_config: str) -> None:
        """Set the service config for clients, in gRPC's JSON form; "" for the defaults."""

    def register(self, service: str, endpoint: Endpoint) -> None:
        """Add an endpoint to a service, which is unmanaged unless it was declared.

        Raises:
            ValueError: The service has an endpoint with that id already.
        """

    def deregister(self, service: str, exit_info: ExitInfo) -> None:
        """Remove an endpoint. If it is gone already, only replace its exit info."""

    def subscribe_to_claims(self, subscriber: Callable[[str], None]) -> None:
        """Call `subscriber` with the name of each service that is declared, or that gets an
        endpoint without a `server_uid`, as registered by the mesh's own user."""

    def resolve(self, service: str) -> ServiceState:
        """Return the current state of a service. Raises UnknownServiceError."""

    def has_service(self, service: str) -> bool:
        """Return whether a service is known."""

    def services(self) -> tuple[str, ...]:
        """Return the names of all known services, sorted."""

    def watch(self, service: str) -> AsyncGenerator[ServiceState, None]:
        """Yield the state of a service at once and after each change.

        States in between may be skipped, the latest never is. Raises UnknownServiceError.
        """

    async def wait_changed(self, revision: int) -> None:
        """Wait until `revision` differs from the given one."""


async def watch_service(
    registry: Registry, service: str, on_update: Callable[[ServiceState], None]
) -> None:
    """Call `on_update` with each state of a service until cancelled.

    Raises UnknownServiceError.
    """
    async with aclosing(registry.watch(service)) as states:
        async for state in states:
            on_update(state)
