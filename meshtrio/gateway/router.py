"""Passes calls on to plugins, chosen by what is called or by what the caller says."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractAsyncContextManager
from functools import partial
from urllib.parse import quote

import attrs
import purerpc
import trio

from meshtrio.client.channel import Channel, open_channel
from meshtrio.contract import FORWARDED_METADATA_KEY, TARGET_METADATA_KEY
from meshtrio.discovery.registry import Registry, UnknownServiceError, watch_service
from meshtrio.gateway import header_rewrite
from meshtrio.gateway.proxied_call import ProxiedCall
from meshtrio.gateway.proxied_streams import DownstreamStream
from meshtrio.gateway.service_index import ServiceIndex
from meshtrio.grpc.headers import RequestHeaders
from meshtrio.grpc.service_config import ServiceConfig
from meshtrio.http2.hpack.codec import HeaderBlock
from meshtrio.rpc.server import ServerConnection
from meshtrio.rpc.stream import Stream
from meshtrio.telemetry.metrics.gateway_metrics import GatewayMetrics
from meshtrio.transport.peer import Peer
from meshtrio.util.concurrency import sleep_until_tick
from meshtrio.util.identity_cache import IdentityCache

_UNQUOTED_CHARACTERS = " !#$&'()*+/:;<=>?@[]^_`{|}~-."
"""What stands for itself in the description of a caller: no comma, and nothing outside ASCII."""
_OWN_SERVICES_PREFIX = "meshtrio."
_ORPHAN_CHECK_INTERVAL = 30.0
_MAX_GATEWAYS = 8
"""That a call may go through: with more of them, it goes in a circle."""


@attrs.define(eq=False)
class Route:
    """What a head asks for; the same for all calls that come with the same head."""

    headers: RequestHeaders
    grpc_service: str
    """The gRPC service."""
    explicit_target: str | None
    """The service of the mesh that the metadata names."""
    forwarded_for: tuple[str, ...] = ()
    """For whom earlier gateways have passed it on."""
    has_loop: bool = False
    _channel: Channel | None = None
    _encoded_headers: HeaderBlock | None = None

    @classmethod
    def from_headers(cls, headers: RequestHeaders) -> Route:
        named = next(
            (str(value) for key, value in headers.metadata if key == TARGET_METADATA_KEY), None
        )
        forwarded = tuple(
            str(value) for key, value in headers.metadata if key == FORWARDED_METADATA_KEY
        )
        gateways = ", ".join(forwarded).count(",") + 1
        service = headers.path[1:].partition("/")[0]
        return cls(headers, service, named, forwarded, gateways >= _MAX_GATEWAYS)

    @property
    def display_name(self) -> str:
        return self.explicit_target or self.grpc_service

    def encode_headers(self, channel: Channel, caller: Peer) -> HeaderBlock:
        """The head as a channel's endpoints are to have it. A head is of one caller only."""
        if self._encoded_headers is None or self._channel is not channel:
            forwarded = ", ".join(
                (*self.forwarded_for, quote(str(caller), safe=_UNQUOTED_CHARACTERS))
            )
            self._encoded_headers = header_rewrite.rewrite_request_headers(
                self.headers, channel.scheme, channel.authority, forwarded
            )
            self._channel = channel
        return self._encoded_headers


class Router:
    """A `Forwarder` for servers of the mesh. Its channels live while `run` does."""

    def __init__(
        self,
        registry: Registry,
        configured_services: Callable[[], Mapping[str, Iterable[str]]],
        call_metrics: GatewayMetrics | None = None,
    ) -> None:
        """`configured`: by service of the mesh, the gRPC services it serves by the config;
        `measured`: where calls are counted, if they are."""
        self.call_metrics = call_metrics
        self._registry = registry
        # Not by the services' configs, whose bounds are for the calls of others.
        asking = partial(self._make_channel, service_config=ServiceConfig())
        self.service_index = ServiceIndex(registry, configured_services, asking)
        self._get_route = IdentityCache(Route.from_headers)
        self._channels: dict[str, _OpenChannel] = {}
        self._opening_locks: defaultdict[str, trio.Lock] = defaultdict(trio.Lock)
        self._nursery: trio.Nursery | None = None

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            task_status.started()
            await self._close_orphaned_channels()

    async def _close_orphaned_channels(self) -> None:
        """Close the channels of services that are gone, once their last calls are likely over."""
        before: set[str] = set()
        while True:
            await sleep_until_tick(_ORPHAN_CHECK_INTERVAL)
            deserted = {service for service in self._channels if self._is_orphaned(service)}
            for service in deserted & before:
                self._channels[service].cancel_scope.cancel()
                self.service_index.remove(service)
            before = deserted

    def _is_orphaned(self, service: str) -> bool:
        """Nobody serves it, nor sees to it that somebody will."""
        if not self._registry.has_service(service):
            return True
        state = self._registry.resolve(service)
        return state.unmanaged and not state.endpoints

    # -- for servers -------------------------------------------------------------------------

    def accepts(self, headers: RequestHeaders, has_handler: bool) -> bool:
        """All that the mesh does not serve itself, and what is expressly for somebody else.

        The mesh's own services are so by metadata only.
        """
        if not has_handler:
            return True
        plan = self._get_route(headers)
        return plan.explicit_target is not None or (
            not plan.grpc_service.startswith(_OWN_SERVICES_PREFIX)
            and self._get_explicit_target(plan) is not None
        )

    def forward(
        self, connection: ServerConnection, stream_id: int, headers: RequestHeaders
    ) -> Stream:
        leg = DownstreamStream(connection, stream_id)
        leg.path = headers.path
        connection.streams[stream_id] = leg
        ProxiedCall(self, leg, self._get_route(headers)).start()
        return leg

    # -- for passages ------------------------------------------------------------------------

    def find_open_channel(self, route: Route) -> Channel | None:
        """The channel a call goes to, if it is known and open; see `open_channel`."""
        if route.has_loop:
            return None
        service = self._get_explicit_target(route)
        if service is None:
            service = self.service_index.lookup(route.grpc_service)
            if service is None:
                return None
            if self.service_index.is_stale(service) and not self.service_index.is_refreshing(
                service
            ):
                assert self._nursery is not None
                self._nursery.start_soon(self.service_index.refresh_service, service)
        kept = self._channels.get(service)
        return None if kept is None else kept.channel

    async def open_channel(self, route: Route) -> Channel:
        """Find out where a call goes, and open a channel there.

        Raises purerpc's exceptions where there is no such place.
        """
        if route.has_loop:
            raise purerpc.FailedPreconditionError(
                f"the call has gone through {_MAX_GATEWAYS} gateways: does it go in a circle?"
            )
        return await self.get_or_open_channel(
            self._get_explicit_target(route)
            or await self.service_index.lookup_or_refresh(route.grpc_service)
        )

    def _get_explicit_target(self, route: Route) -> str | None:
        """What a caller has named: by metadata, or as :authority.

        As :authority only what is attended to: clients have all kinds of names for a socket there,
        which somebody could register.
        """
        if route.explicit_target is not None:
            return route.explicit_target
        authority = route.headers.authority
        if (
            self._registry.has_service(authority)
            and not self._registry.resolve(authority).unmanaged
        ):
            return authority
        return None

    async def get_or_open_channel(self, service: str) -> Channel:
        """The channel to a service of the mesh, opened unless it is. Raises NotFoundError."""
        if not self._registry.has_service(service):
            unknown = UnknownServiceError(service, self._registry.services())
            raise purerpc.NotFoundError(str(unknown))
        async with self._opening_locks[service]:
            kept = self._channels.get(service)
            if kept is None:
                assert self._nursery is not None
                kept = await self._nursery.start(self._hold_channel, service)
            return kept.channel

    def _make_channel(
        self, service: str, service_config: ServiceConfig | None = None
    ) -> AbstractAsyncContextManager[Channel]:
        known = self._registry.resolve(service)
        feed, key = partial(watch_service, self._registry, service), (id(self._registry), service)
        return open_channel(
            service,
            feed,
            resolver_key=key,
            initial_state=known,
            service_config=service_config,
            traced=False,
        )

    async def _hold_channel(
        self, service: str, *, task_status: trio.TaskStatus[_OpenChannel]
    ) -> None:
        with trio.CancelScope() as scope:
            async with self._make_channel(service) as channel:
                kept = self._channels[service] = _OpenChannel(channel, scope)
                task_status.started(kept)
                try:
                    await trio.sleep_forever()
                finally:
                    del self._channels[service]
                    # Not while somebody waits for it: whoever comes then would not wait for him.
                    if not self._opening_locks[service].locked():
                        del self._opening_locks[service]


@attrs.frozen
class _OpenChannel:
    """A channel that is open, and what ends it."""

    channel: Channel
    cancel_scope: trio.CancelScope
