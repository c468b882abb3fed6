"""meshtrio.v1.Registry: who serves what, told to other processes and by them."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from typing import Any

import attrs
import purerpc

from meshtrio.client.endpoint import Departure, Endpoint, ServiceState
from meshtrio.config import MeshConfig, ServiceTable
from meshtrio.config.names import check_service_name
from meshtrio.messages import registry as messages
from meshtrio.registry import Registry, UnknownServiceError
from meshtrio.registry.tables import outside_endpoint
from meshtrio.rpc.dynamic import service_of
from meshtrio.rpc.peer import Peer
from meshtrio.rpc.seam import Request
from meshtrio.services.journal import Pace
from meshtrio.services.registrations import Registrations, check_lengths
from meshtrio.services.registry_messages import address_in, to_message, to_tls
from meshtrio.texts import whole

_DESCRIPTOR = messages.DESCRIPTOR.services_by_name["Registry"]
_MOST_REMEMBERED = 1000


class RegistryServicer:
    """Serves a registry; a watcher holds one state, however slowly it reads."""

    def __init__(self, registry: Registry, config: Callable[[], MeshConfig]) -> None:
        """`config` gives the mesh's config as it is at the time."""
        self._registry = registry
        self._registrations = Registrations(registry, config)
        self._pace = Pace()
        self._latest: dict[str, tuple[ServiceState, Any]] = {}
        """A state is made a message of once, however many are told it."""
        self._serials = itertools.count(1)
        self.service = service_of(_DESCRIPTOR, self)

    async def ListServices(self, request: Any) -> Any:  # noqa: N802 - the method's name
        return messages.ListServicesResponse(services=self._registry.services())

    async def Resolve(self, request: Any) -> Any:  # noqa: N802 - the method's name
        try:
            return self._message(request.service, self._registry.resolve(request.service))
        except UnknownServiceError as exc:
            raise purerpc.NotFoundError(str(exc)) from None

    async def Watch(self, request: Any) -> AsyncIterator[Any]:  # noqa: N802
        try:
            with self._pace:
                async with aclosing(self._registry.states(request.service)) as states:
                    async for state in states:
                        yield self._message(request.service, state)
                        await self._pace.rest()
        except UnknownServiceError as exc:
            raise purerpc.NotFoundError(str(exc)) from None

    def _message(self, service: str, state: ServiceState) -> Any:
        latest, message = self._latest.get(service, (None, None))
        if latest is not state:
            message = to_message(service, state)
            if len(self._latest) >= _MOST_REMEMBERED:
                self._latest.clear()
            self._latest[service] = state, message
        return message

    async def Register(self, message: Any, request: Request) -> AsyncIterator[Any]:  # noqa: N802
        service, endpoint = self._endpoint(message, request.peer)
        who = "a program" if request.peer.pid is None else f"pid {request.peer.pid}"
        with self._registrations.held(service, endpoint, request.peer) as registration:
            self._registry.register(service, endpoint)
            try:
                yield messages.RegisterResponse(endpoint_id=whole(endpoint.id))
                await registration.ended.wait()
                assert registration.failure is not None
                raise registration.failure
            finally:
                how = "is gone" if request.caller_is_gone else "took it out"
                if registration.failure is not None:
                    how = f"lost it: {registration.failure.status.status_message}"
                reason = f"{endpoint.address} has no registration any more: {who} {how}"
                self._registry.deregister(service, Departure(endpoint.id, reason))

    def _endpoint(self, message: Any, peer: Peer) -> tuple[str, Endpoint]:
        """The endpoint of a message. Raises InvalidArgumentError and PermissionDeniedError."""
        ours = self._registrations.is_ours(peer)
        try:
            address: Any = address_in(message)
            check_service_name(message.service)
            # What others may not register is told before what is wrong with it.
            self._registrations.check_permitted(peer, message.service, message)
            check_lengths(message, address)
            tls = to_tls(message.tls) if message.HasField("tls") else None
            local = message.local if message.HasField("local") else None
            table = ServiceTable(message.service, (address,), message.weight or 1, local, tls)
            endpoint = outside_endpoint(address, table.weight, tls, local=local)
        except ValueError as exc:
            raise purerpc.InvalidArgumentError(f"cannot be registered: {exc}") from None
        # Not the same as before when it comes back: what is said of the one is not of the other.
        endpoint_id = f"{endpoint.id} #{next(self._serials)}"
        owner = None if ours else peer.uid
        return table.name, attrs.evolve(endpoint, id=endpoint_id, owner=owner)
