"""Follows what other nodes have in etcd, for the registry of this mesh."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable

import trio

from meshtrio.discovery.node_services import NodeServices, StoredEntry
from meshtrio.discovery.registry import Manager, Registry
from meshtrio.etcd import EtcdClient, PrefixChange, WatchStatus
from meshtrio.util.log_once import OncePerReasonLogger

_log = logging.getLogger("meshtrio.discovery")

_ABSENCE_TIMEOUT = 60.0
"""Seconds for which callers wait for a service after its last endpoint is gone: its nodes may be
restarting its plugin, or be restarted themselves."""

_MAX_SHOWN_LENGTH = 200
"""Characters of a key in the log."""


class Follower:
    """Sets the endpoints of other nodes in a registry."""

    def __init__(self, services: NodeServices, registry: Registry, prefix: str) -> None:
        self.status = WatchStatus(connected=False)
        """How well etcd is followed."""
        self.has_snapshot = trio.Event()
        """Set once the services of others are known."""
        self.on_nodes_changed: Callable[[], None] = lambda: None
        """Called after each change that may concern the keys of nodes."""
        self.on_own_keys_changed: Callable[[Iterable[str]], None] = lambda keys: None
        """Called with keys of this node's endpoints that were put or deleted."""
        self._services, self._registry, self._prefix = services, registry, prefix
        self._nursery: trio.Nursery | None = None
        self._absent: dict[str, trio.CancelScope] = {}
        """Scopes of the tasks that remove services without endpoints."""
        self._problem_log = OncePerReasonLogger(_log)
        self._confirmed_at = trio.current_time()
        self._has_connected = False

    @property
    def lag(self) -> float:
        """Seconds since etcd last confirmed what is known, or since the start if it has not."""
        return trio.current_time() - self._confirmed_at

    async def run(self, client: EtcdClient) -> None:
        """Follow etcd until cancelled; the endpoints stay."""
        async with trio.open_nursery() as self._nursery:
            await client.watch_prefix(f"{self._prefix}/", self._on_change, self._on_status)

    def _on_status(self, status: WatchStatus) -> None:
        self._confirmed_at = trio.current_time() - status.lag
        if status.connected and not self._has_connected:
            # Losses, and the end of each, are logged by the client.
            _log.info("following etcd at %s", status.member)
            self._has_connected = True
        self.status = status

    def _on_change(self, change: PrefixChange) -> None:
        puts = [
            StoredEntry(each.key, each.value, each.create_revision, each.lease)
            for each in change.puts
        ]
        self._confirmed_at = trio.current_time()
        self.status = self.status.replace(revision=change.revision)
        before = self._services.other_nodes
        changed = self._services.apply(puts, change.deletes, is_snapshot=change.is_snapshot)
        after = self._services.other_nodes
        for name in sorted(after - before):
            _log.info("node %s has joined", name)
        for name in sorted(before - after):
            _log.info("node %s has left", name)
        for stored in puts:
            if (problem := self._services.get_problem(stored.key)) is not None:
                shown = stored.key[:_MAX_SHOWN_LENGTH]
                text = "etcd: ignoring key %r: %s"
                self._problem_log.log((shown, problem), text, shown, problem)
        for service in sorted(changed):
            self._update(service)
        self.has_snapshot.set()
        self.on_nodes_changed()
        self.on_own_keys_changed(self._services.take_changed_own_keys())

    def _update(self, service: str) -> None:
        endpoints = self._services.make_endpoints(service)
        if endpoints:
            if (scope := self._absent.pop(service, None)) is not None:
                scope.cancel()
            self._registry.add_service(service, Manager.OTHER_NODES)
        elif service not in self._absent:
            assert self._nursery is not None
            self._absent[service] = trio.CancelScope()
            self._nursery.start_soon(self._remove_later, service, self._absent[service])
        self._registry.set_node_endpoints(service, endpoints, self._services.describe_end)

    async def _remove_later(self, service: str, scope: trio.CancelScope) -> None:
        with scope:
            await trio.sleep(_ABSENCE_TIMEOUT)
            self._registry.remove_service(service, Manager.OTHER_NODES)
            del self._absent[service]
