"""The meshtrio.v1.Registry servicer: other processes watch services and register endpoints."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from typing import Any

import attrs
import purerpc

from meshtrio.config import MeshConfig, StaticServiceConfig
from meshtrio.config.validators import check_service_name
from meshtrio.discovery.endpoint import Endpoint, ExitInfo, ServiceState
from meshtrio.discovery.registry import Registry
from meshtrio.discovery.registry_messages import get_address, state_to_message, tls_from_message
from meshtrio.discovery.static import make_external_endpoint
from meshtrio.messages import registry as messages
from meshtrio.rpc.context import ServerContext
from meshtrio.rpc.protobuf_descriptors import service_from_descriptor
from meshtrio.services.broadcast_log import ReaderThrottle
from meshtrio.services.registrations import Registrations, check_lengths
from meshtrio.transport.peer import Peer
from meshtrio.util.caches import BoundedCache
from meshtrio.util.text import replace_surrogates

_DESCRIPTOR = messages.DESCRIPTOR.services_by_name["Registry"]
_MAX_CACHED_MESSAGES = 1000


class RegistryServicer:
    """Serves a registry. A watcher holds one state, however slowly it reads."""

    def __init__(self, registry: Registry, get_config: Callable[[], MeshConfig]) -> None:
        """Serve a registry; `get_config` returns the current config."""
        self._registry = registry
        self._registrations = Registrations(registry, get_config)
        self._reader_throttle = ReaderThrottle()
        self._messages = BoundedCache[str, tuple[ServiceState, Any]](_MAX_CACHED_MESSAGES)
        """The last state and its message by service: it is converted once for all watchers."""
        self._serials = itertools.count(1)
        self.service = service_from_descriptor(_DESCRIPTOR, self)

    async def ListServices(self, request: Any) -> Any:  # noqa: N802 - the method's name
        return messages.ListServicesResponse(services=self._registry.services())

    async def Resolve(self, request: Any) -> Any:  # noqa: N802 - the method's name
        return self._get_message(request.service, self._registry.resolve(request.service))

    async def Watch(self, request: Any) -> AsyncIterator[Any]:  # noqa: N802
        with self._reader_throttle:
            async with aclosing(self._registry.watch(request.service)) as states:
                async for state in states:
                    yield self._get_message(request.service, state)
                    await self._reader_throttle.wait()

    def _get_message(self, service: str, state: ServiceState) -> Any:
        cached = self._messages.get(service)
        if cached is not None and cached[0] is state:
            return cached[1]
        message = state_to_message(service, state)
        self._messages[service] = state, message
        return message

    async def Register(self, message: Any, request: ServerContext) -> AsyncIterator[Any]:  # noqa: N802
        service, endpoint = self._make_endpoint(message, request.peer)
        registrar = "a program" if request.peer.pid is None else f"pid {request.peer.pid}"
        with self._registrations.hold(service, endpoint, request.peer) as registration:
            self._registry.register(service, endpoint)
            try:
                yield messages.RegisterResponse(endpoint_id=replace_surrogates(endpoint.id))
                await registration.revoked.wait()
                assert registration.error is not None
                raise registration.error
            finally:
                what = "is gone" if request.is_client_disconnected else "deregistered it"
                if registration.error is not None:
                    what = f"lost it: {registration.error.status.status_message}"
                reason = f"{endpoint.address} is not registered any more: {registrar} {what}"
                self._registry.deregister(service, ExitInfo(endpoint.id, reason))

    def _make_endpoint(self, message: Any, peer: Peer) -> tuple[str, Endpoint]:
        """Make the endpoint of a message. Raises InvalidArgumentError and PermissionDeniedError."""
        is_privileged = self._registrations.is_privileged(peer)
        try:
            address: Any = get_address(message)
            check_service_name(message.service)
            # Permission comes first: other errors may reveal what exists.
            self._registrations.check_permitted(peer, message.service, message)
            check_lengths(message, address)
            tls = tls_from_message(message.tls) if message.HasField("tls") else None
            local = message.local if message.HasField("local") else None
            name, weight = message.service, message.weight or 1
            table = StaticServiceConfig(name, (address,), weight, local, tls)
            endpoint = make_external_endpoint(address, table.weight, tls, local=local)
        except ValueError as exc:
            raise purerpc.InvalidArgumentError(f"cannot be registered: {exc}") from None
        # An id is never used again, even if the same endpoint is: exit infos name it.
        endpoint_id = f"{endpoint.id} #{next(self._serials)}"
        server_uid = None if is_privileged else peer.uid
        return table.name, attrs.evolve(endpoint, id=endpoint_id, server_uid=server_uid)
