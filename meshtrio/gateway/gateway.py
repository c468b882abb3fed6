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
from meshtrio.contract import MESH_FORWARDED, MESH_TARGET
from meshtrio.gateway import blocks
from meshtrio.gateway.catalog import Catalog
from meshtrio.gateway.legs import CallerLeg
from meshtrio.gateway.passage import Passage
from meshtrio.policies.service_config import ServiceConfig
from meshtrio.registry import Registry, UnknownServiceError, watch
from meshtrio.rpc.peer import Peer
from meshtrio.rpc.server import ServerConnection
from meshtrio.rpc.stream import Stream
from meshtrio.structured import next_beat
from meshtrio.telemetry.metrics.passed import PassedCalls
from meshtrio.wire.heads import RequestHead
from meshtrio.wire.hpack import HeaderBlock

_PLAIN = " !#$&'()*+/:;<=>?@[]^_`{|}~-."
"""What stands for itself in the description of a caller: no comma, and nothing outside ASCII."""
_OWN = "meshtrio."
_LOOK_EVERY = 30.0
_MOST_GATEWAYS = 8
"""That a call may go through: with more of them, it goes in a circle."""


@attrs.define(eq=False)
class Plan:
    """What a head asks for; the same for all calls that come with the same head."""

    head: RequestHead
    service: str
    """The gRPC service."""
    named: str | None
    """The service of the mesh that the metadata names."""
    forwarded: tuple[str, ...] = ()
    """For whom earlier gateways have passed it on."""
    goes_in_a_circle: bool = False
    _channel: Channel | None = None
    _block: HeaderBlock | None = None

    @classmethod
    def of(cls, head: RequestHead) -> Plan:
        named = next((str(value) for key, value in head.metadata if key == MESH_TARGET), None)
        forwarded = tuple(str(value) for key, value in head.metadata if key == MESH_FORWARDED)
        gateways = ", ".join(forwarded).count(",") + 1
        service = head.path[1:].partition("/")[0]
        return cls(head, service, named, forwarded, gateways >= _MOST_GATEWAYS)

    @property
    def what(self) -> str:
        return self.named or self.service

    def block_for(self, channel: Channel, caller: Peer) -> HeaderBlock:
        """The head as a channel's endpoints are to have it. A head is of one caller only."""
        if self._block is None or self._channel is not channel:
            forwarded = ", ".join((*self.forwarded, quote(str(caller), safe=_PLAIN)))
            self._block = blocks.request_block(
                self.head, channel.scheme, channel.authority, forwarded
            )
            self._channel = channel
        return self._block


class Gateway:
    """A `Forwarder` for servers of the mesh. Its channels live while `run` does."""

    def __init__(
        self,
        registry: Registry,
        configured: Callable[[], Mapping[str, Iterable[str]]],
        measured: PassedCalls | None = None,
    ) -> None:
        """`configured`: by service of the mesh, the gRPC services it serves by the config;
        `measured`: where calls are counted, if they are."""
        self.measured = measured
        self._registry = registry
        # Not by the services' configs, whose bounds are for the calls of others.
        asking = partial(self._channel_to, config=ServiceConfig())
        self.catalog = Catalog(registry, configured, asking)
        self._plan = blocks.Memory(Plan.of)
        self._channels: dict[str, _Kept] = {}
        self._opening: defaultdict[str, trio.Lock] = defaultdict(trio.Lock)
        self._nursery: trio.Nursery | None = None

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            task_status.started()
            await self._close_deserted()

    async def _close_deserted(self) -> None:
        """Close the channels of services that are gone, once their last calls are likely over."""
        before: set[str] = set()
        while True:
            await next_beat(_LOOK_EVERY)
            deserted = {service for service in self._channels if self._is_deserted(service)}
            for service in deserted & before:
                self._channels[service].scope.cancel()
                self.catalog.forget(service)
            before = deserted

    def _is_deserted(self, service: str) -> bool:
        """Nobody serves it, nor sees to it that somebody will."""
        if not self._registry.knows(service):
            return True
        state = self._registry.resolve(service)
        return state.unattended and not state.endpoints

    # -- for servers -------------------------------------------------------------------------

    def wants(self, head: RequestHead, known: bool) -> bool:
        """All that the mesh does not serve itself, and what is expressly for somebody else.

        The mesh's own services are so by metadata only.
        """
        if not known:
            return True
        plan = self._plan(head)
        return plan.named is not None or (
            not plan.service.startswith(_OWN) and self._target(plan) is not None
        )

    def forward(self, connection: ServerConnection, stream_id: int, head: RequestHead) -> Stream:
        leg = CallerLeg(connection, stream_id)
        leg.path = head.path
        connection.streams[stream_id] = leg
        Passage(self, leg, self._plan(head)).begin()
        return leg

    # -- for passages ------------------------------------------------------------------------

    def channel_for(self, plan: Plan) -> Channel | None:
        """The channel a call goes to, if it is known and open; see `open_channel_for`."""
        if plan.goes_in_a_circle:
            return None
        service = self._target(plan)
        if service is None:
            service = self.catalog.route(plan.service)
            if service is None:
                return None
            if self.catalog.is_stale(service) and not self.catalog.is_learning(service):
                assert self._nursery is not None
                self._nursery.start_soon(self.catalog.learn, service)
        kept = self._channels.get(service)
        return None if kept is None else kept.channel

    async def open_channel_for(self, plan: Plan) -> Channel:
        """Find out where a call goes, and open a channel there.

        Raises purerpc's exceptions where there is no such place.
        """
        if plan.goes_in_a_circle:
            raise purerpc.FailedPreconditionError(
                f"the call has gone through {_MOST_GATEWAYS} gateways: does it go in a circle?"
            )
        return await self.channel_to(self._target(plan) or await self.catalog.find(plan.service))

    def _target(self, plan: Plan) -> str | None:
        """What a caller has named: by metadata, or as :authority.

        As :authority only what is attended to: clients have all kinds of names for a socket there,
        which somebody could register.
        """
        if plan.named is not None:
            return plan.named
        authority = plan.head.authority
        if self._registry.knows(authority) and not self._registry.resolve(authority).unattended:
            return authority
        return None

    async def channel_to(self, service: str) -> Channel:
        """The channel to a service of the mesh, opened unless it is. Raises NotFoundError."""
        if not self._registry.knows(service):
            unknown = UnknownServiceError(service, self._registry.services())
            raise purerpc.NotFoundError(str(unknown))
        async with self._opening[service]:
            kept = self._channels.get(service)
            if kept is None:
                assert self._nursery is not None
                kept = await self._nursery.start(self._keep, service)
            return kept.channel

    def _channel_to(
        self, service: str, config: ServiceConfig | None = None
    ) -> AbstractAsyncContextManager[Channel]:
        known = self._registry.resolve(service)
        feed, key = partial(watch, self._registry, service), (id(self._registry), service)
        return open_channel(
            service, feed, feed_key=key, initial=known, config=config, observed=False
        )

    async def _keep(self, service: str, *, task_status: trio.TaskStatus[_Kept]) -> None:
        with trio.CancelScope() as scope:
            async with self._channel_to(service) as channel:
                kept = self._channels[service] = _Kept(channel, scope)
                task_status.started(kept)
                try:
                    await trio.sleep_forever()
                finally:
                    del self._channels[service]
                    # Not while somebody waits for it: whoever comes then would not wait for him.
                    if not self._opening[service].locked():
                        del self._opening[service]


@attrs.frozen
class _Kept:
    """A channel that is open, and what ends it."""

    channel: Channel
    scope: trio.CancelScope
