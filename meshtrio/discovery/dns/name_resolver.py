"""Looking up one name without a mesh, for a channel to it."""

from __future__ import annotations

from collections.abc import Callable

import trio

from meshtrio.discovery.dns.discovery import DnsDiscovery, describe_missing_dnspython
from meshtrio.discovery.dns.watch import WatchKey
from meshtrio.discovery.endpoint import ServiceState
from meshtrio.discovery.registry import Registry, watch_service
from meshtrio.util.dns_target import DnsTarget
from meshtrio.util.errors import UsageError


class NameResolver:
    """The resolver of one channel; its registry has the name as its only service."""

    def __init__(self, target: DnsTarget) -> None:
        self.target = target
        self._service = str(target)
        self._registry = Registry()
        self._registry.add_service(self._service)
        self._discovery = DnsDiscovery(self._registry)

    @classmethod
    def make(cls, name: str) -> NameResolver:
        """Make the resolver of a name. Raises UsageError."""
        try:
            target = DnsTarget.parse(name)
        except ValueError as exc:
            raise UsageError(str(exc)) from None
        if problem := describe_missing_dnspython():
            raise UsageError(f"{name} {problem}")
        return cls(target)

    async def run(self, on_update: Callable[[ServiceState], None]) -> None:
        """Call `on_update` with each state of the name until cancelled."""
        self._discovery.watch([WatchKey(self._service, self.target)])
        async with trio.open_nursery() as nursery:
            await nursery.start(self._discovery.run)
            await watch_service(self._registry, self._service, on_update)

    def on_connect_failure(self, endpoint_id: str) -> None:
        """Look the name up again, since an endpoint cannot be connected to."""
        self._registry.report_connect_failure(self._service, endpoint_id)
