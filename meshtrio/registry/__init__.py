"""Names to endpoints: who serves what now, and what became of who did before."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Protocol

from meshtrio.client.endpoint import Departure, Endpoint, ServiceState

_MAX_NAMED = 50
"""Services in an error: programs may have registered thousands of names."""


class UnknownServiceError(LookupError):
    """A service that was never declared nor registered."""

    def __init__(self, service: str, known: tuple[str, ...]) -> None:
        names = ", ".join(known[:_MAX_NAMED]) or "none"
        if len(known) > _MAX_NAMED:
            names += f" and {len(known) - _MAX_NAMED} more"
        super().__init__(f"no service {service!r}; the services here are: {names}")


class Registry(Protocol):
    """What the mesh asks of a registry, in memory or elsewhere."""

    changes: int
    """Number of changes of what is known of services, since the mesh was started."""

    def declare(self, service: str) -> None:
        """Make a service known that is attended to: callers wait while it has no endpoint."""

    def forget(self, service: str) -> None:
        """Take back that a service was declared.

        Without endpoints it is unknown to who asks from now on. It may be declared again, and who
        watches it is told then.
        """

    def configure(self, service: str, service_config: str) -> None:
        """Have its clients go by a service config, gRPC's JSON form; "" for the defaults."""

    def register(self, service: str, endpoint: Endpoint) -> None:
        """Add an endpoint. Raises ValueError for an id that is registered already.

        A service that was never declared is unattended.
        """

    def deregister(self, service: str, departure: Departure) -> None:
        """Remove an endpoint, saying why; where it is gone already, only the reason is kept."""

    def on_claimed(self, subscriber: Callable[[str], None]) -> None:
        """Have a subscriber called with each service that is declared, and with each that is
        registered without an owner, which is by the mesh's own user."""

    def resolve(self, service: str) -> ServiceState:
        """What is known now. Raises UnknownServiceError."""

    def knows(self, service: str) -> bool: ...

    def services(self) -> tuple[str, ...]:
        """The names that are known, sorted."""

    def states(self, service: str) -> AsyncGenerator[ServiceState, None]:
        """Give the state at once and after each change.

        Raises UnknownServiceError. States in between may be passed over, never the latest.
        """


async def watch(registry: Registry, service: str, deliver: Callable[[ServiceState], None]) -> None:
    """Deliver each state of a service until cancelled. Raises UnknownServiceError."""
    async with aclosing(registry.states(service)) as states:
        async for state in states:
            deliver(state)
