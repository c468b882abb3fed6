"""Forwards calls to plugins: chooses the service of the mesh, and holds the channels."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, contextmanager, suppress
from functools import partial
from urllib.parse import unquote

import attrs
import purerpc
import trio

from meshtrio.client.channel import Channel, open_channel
from meshtrio.discovery.registry import Registry, watch_own_endpoints, watch_service
from meshtrio.gateway.call_watch import CallObserver, CallWatch
from meshtrio.gateway.proxied_call import ProxiedCall
from meshtrio.gateway.route import MAX_GATEWAYS, Destination, Route
from meshtrio.gateway.service_index import ServiceIndex
from meshtrio.grpc.headers import RequestHeaders
from meshtrio.grpc.service_config import ServiceConfig
from meshtrio.rpc.method_load import MethodTracker
from meshtrio.rpc.server_connection import ServerConnection
from meshtrio.services.method_statistics import GatewayKey
from meshtrio.telemetry.metrics.call_metrics import GatewayMetrics
from meshtrio.util.concurrency import sleep_until_tick

_OWN_SERVICES_PREFIX = "meshtrio."
_CONNECT_TIMEOUT = 2.0
"""Timeout for a connection to an endpoint that the mesh does not run, in seconds."""
_HEALTH_CHECK_INTERVAL = 1.0
"""Maximum seconds between two checks of a watched service."""
_ORPHAN_CHECK_INTERVAL = 30.0
"""Seconds between two searches for channels whose service is gone."""


class Router:
    """The `Forwarder` and the `HealthSource` of the mesh's servers.

    Its channels are open while `run` is running. A service is SERVING while one of its endpoints is
    ready. The mesh's own instances are registered only while they are ready; other endpoints are if
    they accept a connection.
    """

    def __init__(
        self,
        registry: Registry,
        configured_services: Callable[[], Mapping[str, Iterable[str]]],
        call_metrics: GatewayMetrics | None = None,
        max_busy_poll: float | None = None,
        etcd_prefix: str = "",
    ) -> None:
        """Initialize the router; `call_metrics` is None if metrics are off.

        `configured_services` returns, by service of the mesh, the gRPC services that the config
        lists for it; the same object while the config is the same. `max_busy_poll` is that of
        connections to the services. `etcd_prefix` is what the keys of services in etcd begin with.
        """
        self._etcd_prefix = etcd_prefix
        self.call_metrics = call_metrics
        self.call_observer: CallObserver | None = call_metrics
        self._call_watch = CallWatch(call_metrics)
        self.current_time: Callable[[], float] = trio.current_time
        self._registry = registry
        self._max_busy_poll = max_busy_poll
        # Reflection does not use the services' configs, whose limits are for calls of clients.
        # Reflection does not start a plugin.
        open_channel = partial(
            self._make_channel, service_config=ServiceConfig(), starts_plugin=False
        )
        self.service_index = ServiceIndex(registry, configured_services, open_channel)
        self.channels: dict[str, _OpenChannel] = {}
        """The open channels, by service."""
        self.own_channels: dict[str, _OpenChannel] = {}
        """Those to the endpoints of this mesh only, by service."""
        self._channel_changes = 0
        """Number of times that a channel was opened or closed."""
        self._opening_locks: defaultdict[tuple[str, bool], trio.Lock] = defaultdict(trio.Lock)
        self._nursery: trio.Nursery | None = None

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Keep channels open until cancelled, or until two searches in a row find no service."""
        orphaned_before: set[str] = set()
        self.current_time = trio.lowlevel.current_clock().current_time
        async with trio.open_nursery() as self._nursery:
            task_status.started()
            while True:
                await sleep_until_tick(_ORPHAN_CHECK_INTERVAL)
                channels = self.channels.keys() | self.own_channels
                orphaned = {service for service in channels if self._is_orphaned(service)}
                for service in orphaned & orphaned_before:
                    for open_channels in (self.channels, self.own_channels):
                        if service in open_channels:
                            open_channels[service].cancel_scope.cancel()
                    self.service_index.remove(service)
                orphaned_before = orphaned

    def _is_orphaned(self, service: str) -> bool:
        """Return whether a service is unknown, or unmanaged and without endpoints."""
        known = self._registry
        is_served = known.has_service(service) and known.resolve(service).endpoints
        return not is_served and not known.is_managed(service)

    # -- for servers -------------------------------------------------------------------------

    def accepts(self, headers: RequestHeaders, has_handler: bool) -> bool:
        """Return whether a call is to be forwarded.

        Methods without a handler are, and calls with an explicit target. Calls of the mesh's own
        services are forwarded only if the metadata names a target.
        """
        if not has_handler:
            return True
        route = self._get_route(headers)
        return route.explicit_target is not None or (
            not route.grpc_service.startswith(_OWN_SERVICES_PREFIX)
            and self._get_explicit_target(route) is not None
        )

    def forward(
        self, connection: ServerConnection, stream_id: int, headers: RequestHeaders
    ) -> ProxiedCall:
        """Start a proxied call and return its downstream stream. Does not block."""
        route, started_at = self._get_route(headers), connection.counters.last_started
        call = ProxiedCall(connection, stream_id, self, route, headers, started_at)
        connection.streams[stream_id] = call
        call.start()
        return call

    def count_rejected(self, headers: RequestHeaders, code: int, has_handler: bool) -> None:
        """Count a call that the server has rejected, for those who watch."""
        if self.call_observer is not self._call_watch or not headers.is_grpc:
            return
        route = self._get_route(headers)
        service = route.explicit_target or self.service_index.lookup(route.grpc_service)
        if has_handler and route.explicit_target is None:
            return  # It was for the mesh itself.
        if service is not None and not self._registry.has_service(service):
            service = None
        self._call_watch.count_rejected(service, headers.path, code)

    @contextmanager
    def watch_calls(self, running: Iterable[object]) -> Iterator[MethodTracker[GatewayKey]]:
        """Count calls by method during the block.

        `running` are the streams of clients that are open; the calls among them are counted as
        calls in flight, and when they end.
        """
        watch = self._call_watch
        with watch.add_tracker() as tracker:
            self.call_observer = watch
            for stream in running:
                if isinstance(stream, ProxiedCall):
                    stream.watch(watch)
            try:
                yield tracker
            finally:
                if watch.tracker_count == 1:
                    self.call_observer = self.call_metrics

    def _get_route(self, headers: RequestHeaders) -> Route:
        """Return the route of a call; those with a timeout share it, as their headers differ."""
        if headers.timeout is not None:
            headers = headers.common or headers
        route = headers.derived
        # Parsed headers may be the same object for several meshes in one process.
        if not isinstance(route, Route) or route.owner is not self:
            headers.derived = route = Route.from_headers(headers, self)
        return route

    # -- for proxied calls -------------------------------------------------------------------

    def find_open_channel(self, route: Route) -> Channel | None:
        """Return the channel for a route if it is known and open; see `open_channel`."""
        known, index = route.destination, self.service_index
        if (
            known is not None
            and known.registry_revision == self._registry.revision
            and known.channel_changes == self._channel_changes
            and known.index_changes == index.changes
            and known.configured_services is index.get_configured_services()
        ):
            return known.channel
        return self._find_destination(route)

    def _find_destination(self, route: Route) -> Channel | None:
        """Look up the channel for a route, and keep it with the route unless it may change soon."""
        if route.has_loop:
            return None
        index, is_final = self.service_index, True
        service = self._get_explicit_target(route)
        if service is None:
            service = index.lookup(route.grpc_service)
            if service is None:
                return None
            is_final = index.is_up_to_date(service)
            if index.is_stale(service) and not index.is_refreshing(service):
                assert self._nursery is not None
                self._nursery.start_soon(index.refresh_service, service)
        found = self._get_channels(self._is_for_own_endpoints(route, service)).get(service)
        if found is None:
            return None
        if is_final:
            route.destination = Destination(
                found.channel,
                self._registry.revision,
                self._channel_changes,
                index.changes,
                index.get_configured_services(),
            )
        return found.channel

    async def open_channel(self, route: Route) -> Channel:
        """Find the destination of a route and open a channel to it.

        Raises:
            purerpc.RpcFailedError: There is no such destination, with the status for the client.
        """
        if route.has_loop:
            raise purerpc.FailedPreconditionError(
                f"forwarding loop detected: call passed through {MAX_GATEWAYS} gateways"
            )
        service = self._get_explicit_target(route)
        if service is None:
            service = await self.service_index.lookup_or_refresh(route.grpc_service)
        own_only = self._is_for_own_endpoints(route, service)
        return await self.get_or_open_channel(service, own_only=own_only)

    def _is_for_own_endpoints(self, route: Route, service: str) -> bool:
        """Return whether a call is to stay on this node: another gateway has sent it here.

        It has found this node's key in etcd. If the call went on to a third node, two nodes that
        have just lost their last instances would send calls to each other.
        """
        if not route.forwarded_for or not self._registry.has_service(service):
            return False
        return any(each.node for each in self._registry.resolve(service).endpoints)

    def _get_channels(self, own_only: bool) -> dict[str, _OpenChannel]:
        return self.own_channels if own_only else self.channels

    def _get_explicit_target(self, route: Route) -> str | None:
        """Return the service that a client has named by metadata or as :authority, if any.

        An :authority counts only if it is a managed service: clients send all kinds of names for a
        socket there, which another program could register.
        """
        if route.explicit_target is not None:
            return route.explicit_target
        name = route.headers.authority
        if not name or self._registry.is_managed(name):
            return name or None
        # grpc-go's resolver for etcd:///PREFIX/SERVICE escapes that in the :authority.
        name = unquote(name).removeprefix(f"{self._etcd_prefix}/")
        return name if self._registry.is_managed(name) else None

    async def get_or_open_channel(self, service: str, *, own_only: bool = False) -> Channel:
        """Return the channel to a service of the mesh, opening it first if necessary.

        `own_only` if it is not to have the endpoints of other nodes.

        Raises:
            purerpc.NotFoundError: The mesh has no such service.
        """
        self._registry.resolve(service)
        async with self._opening_locks[service, own_only]:
            found = self._get_channels(own_only).get(service)
            if found is None:
                assert self._nursery is not None
                found = await self._nursery.start(self._hold_channel, service, own_only)
            return found.channel

    def _make_channel(
        self,
        service: str,
        own_only: bool = False,
        service_config: ServiceConfig | None = None,
        *,
        starts_plugin: bool = True,
    ) -> AbstractAsyncContextManager[Channel]:
        state, watch = self._registry.resolve(service), watch_service
        if own_only:
            state, watch = state.without_other_nodes(), watch_own_endpoints
        return open_channel(
            service,
            partial(watch, self._registry, service),
            resolver_key=(id(self._registry), service, own_only),
            initial_state=state,
            report_connect_failure=partial(self._registry.report_connect_failure, service),
            report_demand=partial(self._registry.report_demand, service) if starts_plugin else None,
            service_config=service_config,
            traced=False,
            max_busy_poll=self._max_busy_poll,
        )

    async def _hold_channel(
        self, service: str, own_only: bool, *, task_status: trio.TaskStatus[_OpenChannel]
    ) -> None:
        channels, key = self._get_channels(own_only), (service, own_only)
        with trio.CancelScope() as scope:
            async with self._make_channel(service, own_only) as channel:
                channels[service] = _OpenChannel(channel, scope)
                self._channel_changes += 1
                task_status.started(channels[service])
                try:
                    await trio.sleep_forever()
                finally:
                    del channels[service]
                    self._channel_changes += 1
                    # A lock that has waiters is kept: a new one would let another caller in.
                    if not self._opening_locks[key].locked():
                        del self._opening_locks[key]

    # -- health: for `HealthServicer` --------------------------------------------------------

    async def is_serving(self, name: str) -> bool | None:
        """Return whether a service has a ready endpoint; None if it is unknown.

        It may be one of the mesh ("plugin.echo"), or a gRPC service that one of them serves.
        """
        services = self._find_known_services(name)
        if not services:
            await self.service_index.refresh()
            services = self._find_known_services(name)
        if not services:
            return None
        for service in services:
            if await self._is_ready(service):
                return True
        return False

    async def wait_for_change(self, name: str) -> None:
        """Wait until the health of a service may have changed, for a second at most."""
        with trio.move_on_after(_HEALTH_CHECK_INTERVAL):
            for service in self._find_known_services(name):
                with suppress(purerpc.RpcFailedError):  # The service may be removed meanwhile.
                    channel = await self.get_or_open_channel(service)
                    await channel.wait_for_state_change()
                    return
            await trio.sleep_forever()

    def _find_known_services(self, name: str) -> list[str]:
        is_known = self._registry.has_service(name)
        return [name] if is_known else self.service_index.find_services(name)

    async def _is_ready(self, service: str) -> bool:
        if not self._registry.has_service(service):
            return False
        endpoints = self._registry.resolve(service).endpoints
        if not endpoints or any(endpoint.pid for endpoint in endpoints):
            return bool(endpoints)
        # The service may be removed meanwhile.
        with suppress(purerpc.RpcFailedError), trio.move_on_after(_CONNECT_TIMEOUT):
            return await (await self.get_or_open_channel(service)).is_reachable()
        return False


@attrs.frozen
class _OpenChannel:
    """A channel of the router."""

    channel: Channel
    """The open channel."""
    cancel_scope: trio.CancelScope
    """Closes the channel when it is cancelled."""
