"""Keeps the endpoints that the tables of a config look up in DNS in a registry."""

from __future__ import annotations

from collections.abc import Iterable
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING

import trio

from meshtrio.config import DnsConfig, MeshConfig, StaticServiceConfig
from meshtrio.discovery.dns.answers import DnsAnswer
from meshtrio.discovery.dns.watch import DnsWatch, WatchKey
from meshtrio.discovery.registry import Registry
from meshtrio.util.dns_target import DnsTarget
from meshtrio.util.errors import ConfigError

if TYPE_CHECKING:
    from meshtrio.discovery.dns.client import DnsClient


def check_dns_installed(config: MeshConfig) -> None:
    """Raise ConfigError if a config needs DNS, and dnspython is not installed."""
    names = [
        f"service {table.name!r}: endpoints: {target}"
        for table in config.services
        for target in table.dns_targets
    ]
    if names and (problem := describe_missing_dnspython()):
        raise ConfigError([f"{name} {problem}" for name in names])


def describe_missing_dnspython() -> str:
    """Return what has to be installed for looking up names; "" if all is there."""
    try:
        is_installed = find_spec("dns.asyncresolver") is not None
    except (ValueError, ModuleNotFoundError):
        is_installed = False
    install = "pip install 'meshtrio[dns]'"
    return "" if is_installed else f"needs dnspython, which is not installed here: {install}"


class DnsDiscovery:
    """Looks up the names of a config's tables, and keeps their endpoints in a registry."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._watches: dict[WatchKey, DnsWatch] = {}
        self._config = DnsConfig()
        self._client: DnsClient | None = None
        """None before the first lookup, and when the config has changed."""
        self._nursery: trio.Nursery | None = None
        registry.connect_failure_watchers.append(self._on_connect_failure)

    @property
    def watches(self) -> tuple[DnsWatch, ...]:
        """All watches, in the order of the config."""
        return tuple(self._watches.values())

    def apply_config(self, config: MeshConfig) -> None:
        """Follow another config, now and in `run`. The services are in the registry already."""
        self.apply_tables(config.services, config.dns)

    def apply_tables(self, tables: Iterable[StaticServiceConfig], config: DnsConfig) -> None:
        """Look up the names of these tables, and no others."""
        if config != self._config:
            self._config, self._client = config, None
            for each in self._watches.values():
                each.look_up_soon()
        self.watch(
            WatchKey(table.name, target, table.weight, bool(table.local), table.tls)
            for table in tables
            for target in table.dns_targets
        )

    def watch(self, keys: Iterable[WatchKey]) -> None:
        """Look up these names, and no others."""
        wanted = dict.fromkeys(keys)
        for key in [key for key in self._watches if key not in wanted]:
            self._watches.pop(key).stop()
        known = self._watches
        self._watches = {key: known.get(key) or DnsWatch(key, self._registry) for key in wanted}
        for key, watch in self._watches.items():
            if key not in known and self._nursery is not None:
                self._nursery.start_soon(self._run_watch, watch)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Look up names until cancelled."""
        async with trio.open_nursery() as self._nursery:
            for watch in self._watches.values():
                self._nursery.start_soon(self._run_watch, watch)
            task_status.started()
            await trio.sleep_forever()

    async def _run_watch(self, watch: DnsWatch) -> None:
        with watch.cancel_scope:
            while True:
                await watch.wait_until_due()
                await watch.look_up(self._look_up)

    async def _look_up(self, target: DnsTarget) -> DnsAnswer:
        client = await self._get_client()
        return await client.lookup(target)

    async def _get_client(self) -> DnsClient:
        if self._client is None:
            # In a thread: it takes 0.1 s, and only meshes that look up names need it.
            module = "meshtrio.discovery.dns.client"
            client = await trio.to_thread.run_sync(import_module, module)
            self._client = self._client or client.DnsClient(self._config.servers)
        found: DnsClient = self._client
        return found

    def _on_connect_failure(self, service: str, endpoint_id: str) -> None:
        for key, watch in self._watches.items():
            if key.service == service:
                watch.on_connect_failure(endpoint_id)
