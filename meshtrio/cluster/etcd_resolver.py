"""The state of one service, read and followed in etcd."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Unpack

import purerpc

from meshtrio.client.channel import Channel, ChannelOptions, open_channel
from meshtrio.cluster.discovery_url import parse_discovery_url
from meshtrio.cluster.password import read_password
from meshtrio.config import DiscoveryConfig
from meshtrio.config.async_loading import load_in_thread
from meshtrio.discovery.endpoint import Endpoint, ExitInfo, ServiceState
from meshtrio.discovery.node_services import NodeServices, StoredEntry
from meshtrio.etcd import PrefixChange, WatchStatus, open_client
from meshtrio.util.errors import UsageError

_MAX_EXIT_INFOS = 16


@asynccontextmanager
async def connect_by_etcd(
    service: str, discovery: DiscoveryConfig | Path | str, **options: Unpack[ChannelOptions]
) -> AsyncIterator[Channel]:
    """Open a channel to a service, for the block; see `connecting.connect`."""
    config = await _load_discovery(discovery)
    async with open_channel(
        service,
        partial(_watch_service, config, service),
        resolver_key=(config, service),
        resolve_once=partial(_resolve_service, config, service),
        **options,
    ) as channel:
        yield channel


async def _load_discovery(discovery: DiscoveryConfig | Path | str) -> DiscoveryConfig:
    if isinstance(discovery, DiscoveryConfig):
        config = discovery
    elif isinstance(discovery, str) and "://" in discovery:
        return parse_discovery_url(discovery)
    else:
        config = (await load_in_thread(discovery)).discovery
    if not config.etcd:
        raise UsageError(f"{discovery} has no [mesh.discovery] table with members of etcd")
    return config


class _ServiceView:
    """The state of one service, from its keys."""

    def __init__(self, config: DiscoveryConfig, service: str) -> None:
        self._service = service
        # Endpoints of a mesh on this host are called like those of other nodes.
        self._services = NodeServices(config.prefix, "", config.zone, config.peer_tls)
        self._endpoints: dict[str, Endpoint] = {}
        self._exit_infos: tuple[ExitInfo, ...] = ()

    def apply(self, puts: list[StoredEntry], deletes: list[str], *, is_snapshot: bool) -> None:
        self._services.apply(puts, deletes, is_snapshot=is_snapshot)
        found = {each.id: each for each in self._services.make_endpoints(self._service)}
        gone = [each for key, each in self._endpoints.items() if key not in found]
        ends = [ExitInfo(each.id, f"{each.address} was removed from etcd") for each in gone]
        earlier = [info for info in self._exit_infos if info.endpoint_id not in found]
        self._exit_infos = (*earlier, *ends)[-_MAX_EXIT_INFOS:]
        self._endpoints = found

    @property
    def state(self) -> ServiceState:
        """The state; callers wait if there are no endpoints, as during a restart."""
        return ServiceState(tuple(self._endpoints.values()), self._exit_infos)


async def _watch_service(
    config: DiscoveryConfig, service: str, on_update: Callable[[ServiceState | None], None]
) -> None:
    """Follow the keys of a service in etcd: the resolver of all channels of a process to it."""
    view, has_reported = _ServiceView(config, service), False

    def report(state: ServiceState | None) -> None:
        nonlocal has_reported
        if state is not None or not has_reported:
            on_update(state)
        has_reported = True

    def on_change(change: PrefixChange) -> None:
        puts = [StoredEntry(each.key, each.value, each.create_revision) for each in change.puts]
        view.apply(puts, change.deletes, is_snapshot=change.is_snapshot)
        is_unknown = not has_reported and not view.state.endpoints
        report(None if is_unknown else view.state)

    def on_status(status: WatchStatus) -> None:
        if not status.connected:
            report(None)

    async with open_client(
        config.etcd, tls=config.tls, user=config.user, password=read_password(config)
    ) as client:
        await client.watch_prefix(f"{config.prefix}/{service}/", on_change, on_status)


async def _resolve_service(config: DiscoveryConfig, service: str) -> ServiceState:
    """Read the keys of a service once. Raises EtcdError or NotFoundError."""
    view, prefix = _ServiceView(config, service), f"{config.prefix}/{service}/"
    async with open_client(
        config.etcd, tls=config.tls, user=config.user, password=read_password(config)
    ) as client:
        keys, _ = await client.get_prefix(prefix)
    puts = [StoredEntry(each.key, each.value, each.create_revision) for each in keys]
    view.apply(puts, [], is_snapshot=True)
    if not view.state.endpoints:
        raise purerpc.NotFoundError(f"no node has {service}: etcd has no endpoint below {prefix}")
    return view.state
