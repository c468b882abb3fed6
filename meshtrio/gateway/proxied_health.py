"""The health of what the gateway passes calls on to, by a mesh's or a gRPC service's name."""

from __future__ import annotations

import purerpc
import trio

from meshtrio.discovery.registry import Registry
from meshtrio.gateway.router import Router

_CONNECT_TIMEOUT = 2.0
"""Seconds that an endpoint which the mesh does not probe has to accept a connection."""
_CHECK_INTERVAL = 1.0
"""Seconds after which a watched service is looked at again whether or not anything changed."""


class ProxiedHealth:
    """Answers for services that this mesh's server does not serve itself.

    A service serves while at least one of its endpoints is ready. The mesh's own instances are
    registered while they are; what else is registered is ready if it can be connected to.
    """

    def __init__(self, registry: Registry, router: Router) -> None:
        self._registry = registry
        self._router = router

    async def is_serving(self, name: str) -> bool | None:
        """Whether a service has a ready endpoint; None if it is not known.

        Args:
            name: A service of the mesh ("plugin.echo"), or a gRPC service that one of them serves.
        """
        services = await self._find_services(name)
        if not services:
            return None
        for service in services:
            if await self._is_ready(service):
                return True
        return False

    async def wait_for_change(self, name: str) -> None:
        """Wait until the health of a service may be another than it was, at most a second."""
        with trio.move_on_after(_CHECK_INTERVAL):
            for service in self._find_known_services(name):
                try:
                    channel = await self._router.get_or_open_channel(service)
                except purerpc.RpcFailedError:
                    continue  # It has been removed meanwhile.
                await channel.wait_for_state_change()
                return
            await trio.sleep_forever()

    async def _find_services(self, name: str) -> list[str]:
        """The services of the mesh that a name stands for; asks plugins where none is known."""
        found = self._find_known_services(name)
        if not found:
            await self._router.service_index.refresh()
            found = self._find_known_services(name)
        return found

    def _find_known_services(self, name: str) -> list[str]:
        return (
            [name]
            if self._registry.has_service(name)
            else self._router.service_index.find_services(name)
        )

    async def _is_ready(self, service: str) -> bool:
        if not self._registry.has_service(service):
            return False
        endpoints = self._registry.resolve(service).endpoints
        if not endpoints or any(endpoint.pid for endpoint in endpoints):
            return bool(endpoints)
        try:
            with trio.move_on_after(_CONNECT_TIMEOUT):
                return await (await self._router.get_or_open_channel(service)).is_reachable()
        except purerpc.RpcFailedError:
            pass  # It has been removed meanwhile.
        return False
