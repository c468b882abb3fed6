"""Names to endpoints: who serves what now, and what became of who did before."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Protocol

from meshtrio.discovery.endpoint import Endpoint, ExitInfo, ServiceState

_MAX_LISTED_NAMES = 50
"""Services in an error: programs may have registered thousands of names."""


class UnknownServiceError(LookupError):
    """A service that was never declared nor registered."""

    def __init__(self, service: str, known: tuple[str, ...]) -> None:
        names = ", ".join(known[:_MAX_LISTED_NAMES]) or "none"
        if len(known) > _MAX_LISTED_NAMES:
            names += f" and {len(known) - _MAX_LISTED_NAMES} more"
        super().__init__(f"no service {service!r}; the services here are: {names}")


class Registry(Protocol):
    """What the mesh asks of a registry, in memory or elsewhere."""

    revision: int
    """Number of changes of what is known of services, since the mesh was started."""

    def add_service(self, service: str) -> None:
        """Make a service known that is attended to: callers wait while it has no endpoint."""

    def remove_service(self, service: str) -> None:
        """Take back that a service was declared.

        Without endpoints it is unknown to who asks from now on. It may be declared again, and who
        watches it is told then.
        """

    def set_service_config(self, service: str, service_config: str) -> None:
        """Have its clients go by a service config, gRPC's JSON form; "" for the defaults."""

    def register(self, service: str, endpoint: Endpoint) -> None:
        """Add an endpoint. Raises ValueError for an id that is registered already.

        A service that was never declared is unattended.
        """

    def deregister(self, service: str, exit_info: ExitInfo) -> None:
        """Remove an endpoint, saying why; where it is gone already, only the reason is kept."""

    def subscribe_to_claims(self, subscriber: Callable[[str], None]) -> None:
        """Have a subscriber called with each service that is declared, and with each that is
        registered without an owner, which is by the mesh's own user."""

    def resolve(self, service: str) -> ServiceState:
        """What is known now. Raises UnknownServiceError."""

    def has_service(self, service: str) -> bool: ...

    def services(self) -> tuple[str, ...]:
        """The names that are known, sorted."""

    def watch(self, service: str) -> AsyncGenerator[ServiceState, None]:
        """Give the state at once and after each change.

        Raises UnknownServiceError. States in between may be passed over, never the latest.
        """


async def watch_service(
    registry: Registry, service: str, on_update: Callable[[ServiceState], None]
) -> None:
    """Deliver each state of a service until cancelled. Raises UnknownServiceError."""
    async with aclosing(registry.watch(service)) as states:
        async for state in states:
            on_update(state)
