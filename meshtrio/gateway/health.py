"""The health of what the gateway passes calls on to, by a mesh's or a gRPC service's name."""

from __future__ import annotations

import purerpc
import trio

from meshtrio.gateway.gateway import Gateway
from meshtrio.registry import Registry

_CONNECT_TIMEOUT = 2.0
"""Seconds that an endpoint which the mesh does not probe has to accept a connection."""
_CHECK_INTERVAL = 1.0
"""Seconds after which a watched service is looked at again whether or not anything changed."""


class PassedHealth:
    """Answers for services that this mesh's server does not serve itself.

    A service serves while at least one of its endpoints is ready. The mesh's own instances are
    registered while they are; what else is registered is ready if it can be connected to.
    """

    def __init__(self, registry: Registry, gateway: Gateway) -> None:
        self._registry = registry
        self._gateway = gateway

    async def is_serving(self, name: str) -> bool | None:
        """Whether a service has a ready endpoint; None if it is not known.

        Args:
            name: A service of the mesh ("plugin.echo"), or a gRPC service that one of them serves.
        """
        services = await self._services(name)
        if not services:
            return None
        for service in services:
            if await self._is_ready(service):
                return True
        return False

    async def changed(self, name: str) -> None:
        """Wait until the health of a service may be another than it was, at most a second."""
        with trio.move_on_after(_CHECK_INTERVAL):
            for service in self._known(name):
                try:
                    channel = await self._gateway.channel_to(service)
                except purerpc.RpcFailedError:
                    continue  # It has been removed meanwhile.
                await channel.changed()
                return
            await trio.sleep_forever()

    async def _services(self, name: str) -> list[str]:
        """The services of the mesh that a name stands for; asks plugins where none is known."""
        found = self._known(name)
        if not found:
            await self._gateway.catalog.refresh()
            found = self._known(name)
        return found

    def _known(self, name: str) -> list[str]:
        return [name] if self._registry.knows(name) else self._gateway.catalog.serving(name)

    async def _is_ready(self, service: str) -> bool:
        if not self._registry.knows(service):
            return False
        endpoints = self._registry.resolve(service).endpoints
        if not endpoints or any(endpoint.pid for endpoint in endpoints):
            return bool(endpoints)
        try:
            with trio.move_on_after(_CONNECT_TIMEOUT):
                return await (await self._gateway.channel_to(service)).is_reachable()
        except purerpc.RpcFailedError:
            pass  # It has been removed meanwhile.
        return False
