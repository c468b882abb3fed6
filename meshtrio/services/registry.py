"""meshtrio.v1.Registry: who serves what, told to other processes and by them."""

from __future__ import annotations

import itertools
import os
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

import attrs
import purerpc
import trio

from meshtrio.client.endpoint import Departure, Endpoint, ServiceState
from meshtrio.config import ServiceTable
from meshtrio.messages import registry as messages
from meshtrio.registry import Registry, UnknownServiceError
from meshtrio.registry.tables import outside_endpoint
from meshtrio.rpc.dynamic import service_of
from meshtrio.rpc.peer import Peer
from meshtrio.rpc.seam import Request
from meshtrio.services.journal import Pace
from meshtrio.services.registry_messages import address_in, to_message, to_tls
from meshtrio.texts import whole

_DESCRIPTOR = messages.DESCRIPTOR.services_by_name["Registry"]
_MOST_REMEMBERED = 1000


class RegistryServicer:
    """Serves a registry; a watcher holds one state, however slowly it reads."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._pace = Pace()
        self._latest: dict[str, tuple[ServiceState, Any]] = {}
        """A state is made a message of once, however many are told it."""
        self._serials = itertools.count(1)
        self._registrations: dict[tuple[str, str], trio.Event] = {}
        """By service and address: set when another takes its place."""
        self.service = service_of(_DESCRIPTOR, self)

    async def ListServices(self, request: Any) -> Any:  # noqa: N802 - the method's name
        return messages.ListServicesResponse(services=self._registry.services())

    async def Resolve(self, request: Any) -> Any:  # noqa: N802 - the method's name
        try:
            return to_message(request.service, self._registry.resolve(request.service))
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
        key, replaced = (service, endpoint.address), trio.Event()
        if key in self._registrations:
            self._registrations[key].set()
        self._registrations[key] = replaced
        self._registry.register(service, endpoint)
        try:
            yield messages.RegisterResponse(endpoint_id=whole(endpoint.id))
            await replaced.wait()
            raise purerpc.AbortedError(f"{endpoint.address} was registered for {service} again")
        finally:
            if self._registrations.get(key) is replaced:
                del self._registrations[key]
            how = "is gone" if request.caller_is_gone else "took it out"
            reason = f"{endpoint.address} has no registration any more: {who} {how}"
            self._registry.deregister(service, Departure(endpoint.id, reason))

    def _endpoint(self, message: Any, peer: Peer) -> tuple[str, Endpoint]:
        owner: int | None = None
        address: Any = address_in(message)
        if peer.uid not in (0, os.geteuid()):
            owner = peer.uid
            if owner is None or not address.startswith("unix:") or message.HasField("tls"):
                raise purerpc.PermissionDeniedError(
                    f"access.registry: {peer} may only register Unix sockets, without TLS"
                )
        tls = to_tls(message.tls) if message.HasField("tls") else None
        local = message.local if message.HasField("local") else None
        try:
            table = ServiceTable(message.service, (address,), message.weight or 1, local, tls)
            endpoint = outside_endpoint(address, table.weight, tls, local=local)
        except ValueError as exc:
            raise purerpc.InvalidArgumentError(f"cannot be registered: {exc}") from None
        # Not the same as before when it comes back: what is said of the one is not of the other.
        return table.name, attrs.evolve(
            endpoint, id=f"{endpoint.id} #{next(self._serials)}", owner=owner
        )
