"""meshtrio.v1.Registry on both ends: served from a registry, and read by another process."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from random import Random
from typing import Any

import purerpc
import trio

from meshtrio.messages import registry as messages
from meshtrio.registry import Registry, UnknownServiceError
from meshtrio.rpc.attempt import Picker
from meshtrio.rpc.dynamic import service_of
from meshtrio.rpc.dynamic_stub import DynamicStub
from meshtrio.rpc.endpoint import RECONNECT, Departure, Endpoint, ServiceState

_DESCRIPTOR = messages.DESCRIPTOR.services_by_name["Registry"]


class RegistryServicer:
    """Serves a registry; a watcher holds one state, however slowly it reads."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self.service = service_of(_DESCRIPTOR, self)

    async def Resolve(self, request: Any) -> Any:  # noqa: N802 - the method's name
        try:
            return to_message(request.service, self._registry.resolve(request.service))
        except UnknownServiceError as exc:
            raise purerpc.NotFoundError(str(exc)) from None

    async def Watch(self, request: Any) -> AsyncIterator[Any]:  # noqa: N802
        try:
            async with aclosing(self._registry.states(request.service)) as states:
                async for state in states:
                    yield to_message(request.service, state)
        except UnknownServiceError as exc:
            raise purerpc.NotFoundError(str(exc)) from None


async def resolve(mesh: Picker, service: str) -> ServiceState:
    """Ask a mesh once. Raises NotFoundError for a service it does not know."""
    stub = DynamicStub(mesh, _DESCRIPTOR)
    return from_message(await stub.Resolve(messages.ResolveRequest(service=service)))


async def watch(mesh: Picker, service: str, deliver: Callable[[ServiceState], None]) -> None:
    """Deliver what a mesh knows of a service, at once and after each change, until cancelled.

    Survives the mesh: what was known stays, and the watch is taken up again when it is back.
    """
    stub = DynamicStub(mesh, _DESCRIPTOR)
    failures, rng = 0, Random()
    while True:
        try:
            async for message in stub.Watch(messages.ResolveRequest(service=service)):
                failures = 0
                deliver(from_message(message))
        except purerpc.RpcFailedError:
            pass
        failures += 1
        await trio.sleep(RECONNECT.delay(failures, rng))


def to_message(service: str, state: ServiceState) -> Any:
    return messages.ServiceState(
        service=service,
        endpoints=[
            messages.Endpoint(id=e.id, address=e.address, instance=e.instance, pid=e.pid)
            for e in state.endpoints
        ],
        departures=[
            messages.Departure(
                endpoint_id=d.endpoint_id,
                reason=d.reason,
                exit_status=d.exit_status,
                signal=d.signal,
                stderr_tail=d.stderr_tail,
            )
            for d in state.departures
        ],
    )


def from_message(message: Any) -> ServiceState:
    return ServiceState(
        endpoints=tuple(
            Endpoint(id=e.id, address=e.address, instance=e.instance, pid=e.pid)
            for e in message.endpoints
        ),
        departures=tuple(
            Departure(
                endpoint_id=d.endpoint_id,
                reason=d.reason,
                exit_status=d.exit_status if d.HasField("exit_status") else None,
                signal=d.signal if d.HasField("signal") else None,
                stderr_tail=tuple(d.stderr_tail),
            )
            for d in message.departures
        ),
    )
