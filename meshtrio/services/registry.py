"""meshtrio.v1.Registry on both ends: served from a registry, and read by another process."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from pathlib import Path
from random import Random
from typing import Any

import attrs
import purerpc
import trio

from meshtrio.address import TlsFiles
from meshtrio.client.attempt import Picker
from meshtrio.client.dynamic_stub import DynamicStub
from meshtrio.client.endpoint import RECONNECT, Departure, Endpoint, ServiceState
from meshtrio.config import ServiceTable
from meshtrio.messages import registry as messages
from meshtrio.registry import Registry, UnknownServiceError
from meshtrio.registry.tables import outside_endpoint
from meshtrio.rpc.dynamic import service_of
from meshtrio.rpc.seam import Request
from meshtrio.services.journal import Pace

_DESCRIPTOR = messages.DESCRIPTOR.services_by_name["Registry"]


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
            self._latest[service] = state, message
        return message

    async def Register(self, message: Any, request: Request) -> AsyncIterator[Any]:  # noqa: N802
        service, endpoint = self._endpoint(message)
        who = "a program" if request.peer.pid is None else f"pid {request.peer.pid}"
        key, replaced = (service, endpoint.address), trio.Event()
        if key in self._registrations:
            self._registrations[key].set()
        self._registrations[key] = replaced
        self._registry.register(service, endpoint)
        try:
            yield messages.RegisterResponse(endpoint_id=endpoint.id)
            await replaced.wait()
            raise purerpc.AbortedError(f"{endpoint.address} was registered for {service} again")
        finally:
            if self._registrations[key] is replaced:
                del self._registrations[key]
            how = "is gone" if request.caller_is_gone else "took it out"
            reason = f"{endpoint.address} has no registration any more: {who} {how}"
            self._registry.deregister(service, Departure(endpoint.id, reason))

    def _endpoint(self, message: Any) -> tuple[str, Endpoint]:
        tls = _tls_from_message(message.tls) if message.HasField("tls") else None
        local = message.local if message.HasField("local") else None
        try:
            table = ServiceTable(
                message.service, (message.address,), message.weight or 1, local, tls
            )
            endpoint = outside_endpoint(message.address, table.weight, tls, local=local)
        except ValueError as exc:
            raise purerpc.InvalidArgumentError(f"cannot be registered: {exc}") from None
        # Not the same as before when it comes back: what is said of the one is not of the other.
        return table.name, attrs.evolve(endpoint, id=f"{endpoint.id} #{next(self._serials)}")


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
        endpoints=[_endpoint_to_message(endpoint) for endpoint in state.endpoints],
        service_config=state.service_config,
        unattended=state.unattended,
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
        endpoints=tuple(_endpoint_from_message(each) for each in message.endpoints),
        service_config=message.service_config,
        unattended=message.unattended,
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


def _endpoint_to_message(endpoint: Endpoint) -> Any:
    message = messages.Endpoint(
        id=endpoint.id,
        address=endpoint.address,
        instance=endpoint.instance,
        pid=endpoint.pid,
        weight=endpoint.weight,
        priority=endpoint.priority,
    )
    if endpoint.tls is not None:
        files = endpoint.tls
        message.tls.SetInParent()
        message.tls.ca_path = str(files.ca or "")
        message.tls.certificate_path = str(files.certificate or "")
        message.tls.key_path = str(files.key or "")
        message.tls.server_name = files.server_name or ""
    return message


def _endpoint_from_message(message: Any) -> Endpoint:
    return Endpoint(
        id=message.id,
        address=message.address,
        instance=message.instance,
        pid=message.pid,
        # Not set by a mesh that is older than this client.
        weight=message.weight or 1,
        priority=message.priority,
        tls=_tls_from_message(message.tls) if message.HasField("tls") else None,
    )


def _tls_from_message(message: Any) -> TlsFiles:
    def path(text: str) -> Path | None:
        return Path(text) if text else None

    return TlsFiles(
        ca=path(message.ca_path),
        certificate=path(message.certificate_path),
        key=path(message.key_path),
        server_name=message.server_name or None,
    )
