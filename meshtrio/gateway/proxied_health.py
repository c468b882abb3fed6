"""The health of services that the gateway forwards calls to."""

from __future__ import annotations

import attrs
import purerpc
import trio

from meshtrio.discovery.registry import Registry
from meshtrio.gateway.router import Router

_CONNECT_TIMEOUT = 2.0
"""Timeout for a connection to an endpoint that the mesh does not run, in seconds."""
_CHECK_INTERVAL = 1.0
"""Maximum seconds between two checks of a watched service."""


@attrs.frozen
class ProxiedHealth:
    """A `HealthSource` for services of the mesh, and for gRPC services of its plugins.

    A service is SERVING while one of its endpoints is ready. The mesh's own instances are
    registered only while they are ready; other endpoints are if they accept a connection.
    """

    _registry: Registry
    _router: Router

    async def is_serving(self, name: str) -> bool | None:
        """Return whether a service has a ready endpoint; None if it is unknown.

        It may be one of the mesh ("plugin.echo"), or a gRPC service that one of them serves.
        """
        services = self._find_known_services(name)
        if not services:
            await self._router.service_index.refresh()
            services = self._find_known_services(name)
        if not services:
            return None
        for service in services:
            if await self._is_ready(service):
                return True
        return False

    async def wait_for_change(self, name: str) -> None:
        """Wait until the health of a service may have changed, for a second at most."""
        with trio.move_on_after(_CHECK_INTERVAL):
            for service in self._find_known_services(name):
                try:
                    channel = await self._router.get_or_open_channel(service)
                except purerpc.RpcFailedError:
                    continue  # The service was removed meanwhile.
                await channel.wait_for_state_change()
                return
            await trio.sleep_forever()

    def _find_known_services(self, name: str) -> list[str]:
        is_known = self._registry.has_service(name)
        return [name] if is_known else self._router.service_index.find_services(name)

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
            pass  # The service was removed meanwhile.
        return False
