"""Registered endpoints whose registrars have yet to register them again after an upgrade.

An upgrade ends the calls of Register, and their clients call again within a fraction of a second.
Meanwhile the endpoints stay in the registry, so that nobody who calls them sees a change.
"""

from __future__ import annotations

from collections.abc import Iterable

import attrs
import purerpc
import trio

from meshtrio.discovery.endpoint import Endpoint, ExitInfo
from meshtrio.discovery.registry import Registry
from meshtrio.transport.peer import Peer

KEPT_REGISTRATION_TIMEOUT = 5.0
"""Seconds after an upgrade in which a registrar has to register its endpoint again."""


@attrs.frozen(kw_only=True)
class SavedRegistration:
    """A registered endpoint."""

    service: str
    endpoint: Endpoint


class KeptRegistrations:
    """The endpoints of one registry that are kept."""

    def __init__(self, registry: Registry) -> None:
        self.is_keeping = False
        """Whether endpoints are kept whose registrations end, since an upgrade ends them."""
        self._registry = registry
        self._kept: dict[tuple[str, str], Endpoint] = {}
        """By service and address."""

    def keep(self, service: str, endpoint: Endpoint) -> None:
        """Keep an endpoint, which is in the registry."""
        self._kept[service, endpoint.address] = endpoint

    def adopt(self, saved: Iterable[SavedRegistration]) -> None:
        """Register and keep the endpoints that were handed over in an upgrade."""
        for each in saved:
            self._registry.register(each.service, each.endpoint)
            self.keep(each.service, each.endpoint)

    def save(self) -> tuple[SavedRegistration, ...]:
        """Return what an upgrade hands over."""
        return tuple(
            SavedRegistration(service=service, endpoint=endpoint)
            for (service, _), endpoint in self._kept.items()
        )

    def take(self, service: str, endpoint: Endpoint, peer: Peer) -> Endpoint:
        """Register an endpoint; return the kept one, with its id, if it is the same.

        Raises:
            PermissionDeniedError: Another user has registered the kept one.
        """
        kept = self._kept.get((service, endpoint.address))
        if kept is not None:
            if kept.server_uid != endpoint.server_uid and not peer.is_own_user_or_root:
                text = f"may not replace {endpoint.address}, which another user has registered for"
                raise purerpc.PermissionDeniedError(f"access.registry: {peer} {text} {service}")
            del self._kept[service, endpoint.address]
            if kept.replace(id=endpoint.id) == endpoint:
                return kept
            self._deregister(service, kept, "was registered again")
        self._registry.register(service, endpoint)
        return endpoint

    async def expire(self) -> None:
        """Remove, after `KEPT_REGISTRATION_TIMEOUT`, those that were not registered again."""
        await trio.sleep(KEPT_REGISTRATION_TIMEOUT)
        while self._kept:
            (service, _), endpoint = self._kept.popitem()
            self._deregister(service, endpoint, "was not registered again after an upgrade")

    def _deregister(self, service: str, endpoint: Endpoint, what: str) -> None:
        exit_info = ExitInfo(endpoint.id, f"{endpoint.address} {what}")
        self._registry.deregister(service, exit_info)
