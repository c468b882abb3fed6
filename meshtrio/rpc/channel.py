"""A channel: calls to a service by name, spread over the endpoints that serve it now."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import purerpc
import trio

from meshtrio.errors import ConnectionLostError, PluginDiedError
from meshtrio.policies.balancing import RoundRobin
from meshtrio.rpc.calls import Call, CallOptions, Target, stub_method
from meshtrio.rpc.endpoint import Endpoint, ServiceState
from meshtrio.rpc.seam import Method, stub_methods
from meshtrio.rpc.subchannel import Subchannel, Tls
from meshtrio.rpc.timeouts import Timeouts
from meshtrio.structured import next_beat, open_nursery_of_one
from meshtrio.wire.compression import IDENTITY
from meshtrio.wire.limits import Limits

T = TypeVar("T")
Feed = Callable[[Callable[[ServiceState], None]], Awaitable[None]]
"""Runs for the life of a channel, handing it each state of its service."""

_HOUSEKEEPING = 1.0
OBITUARY_WAIT = 0.08
"""Seconds a failed call waits to learn how its plugin died, of the 0.1 s it has to fail in."""


class Channel:
    """Calls wait here for an endpoint that is ready, within the caller's own cancel scope.

        async with m.connect("plugin.echo") as channel:
            stub = channel.stub(EchoServiceStub)

    Any number of tasks may use one channel. Its connections belong to the `async with` block.
    """

    def __init__(
        self,
        name: str,
        nursery: trio.Nursery,
        *,
        obituary_wait: float = 0.0,
        limits: Limits | None = None,
        tls: Tls | None = None,
        timeouts: Timeouts | None = None,
    ) -> None:
        """Not for users, who get channels from `connect`.

        `obituary_wait`: seconds for which the feed may still tell why an endpoint went away.
        """
        self.name = name
        self._nursery = nursery
        self._limits = limits
        self._tls = tls
        self._timeouts = timeouts or Timeouts()
        self._obituary_wait = obituary_wait
        self._balancer: RoundRobin[Subchannel] = RoundRobin()
        self._subchannels: dict[str, Subchannel] = {}
        self._ready: Sequence[Subchannel] = ()
        self._changed = trio.lowlevel.ParkingLot()
        self._authority = "".join(c if c.isalnum() or c in ".-_" else "-" for c in name)
        self._closed = False
        # What purerpc's own stubs ask of a channel, for a bare `Stub(channel)`.
        self._host, self._port = self._authority, 0
        self._grpc_socket = _BareStubSupport(self)

    def stub(self, stub_class: type[T]) -> T:
        """An instance of a class from protoc-gen-purerpc whose methods call through this channel.

        Unary methods are awaited; streaming ones give a `Call` to iterate or to talk with.
        Raises UsageError for any other class.
        """
        stub = stub_class(self)  # type: ignore[call-arg]
        for name, method in list(stub_methods(stub)):
            setattr(stub, name, stub_method(self, method))
        return stub

    @property
    def authority(self) -> str:
        return self._authority

    @property
    def scheme(self) -> str:
        return "http" if self._tls is None else "https"

    @property
    def endpoints(self) -> tuple[Endpoint, ...]:
        """The endpoints listed now, ready or not."""
        return tuple(subchannel.endpoint for subchannel in self._subchannels.values())

    # -- for calls ---------------------------------------------------------------------------

    async def pick(self) -> Target:
        """Wait for a ready endpoint and choose one.

        Raises ConnectionLostError once the channel is closed.
        """
        while True:
            target = self.pick_ready()
            if target is not None:
                return target
            self._refresh()
            if self._ready:
                continue
            if self._closed:
                raise ConnectionLostError(f"the channel to {self.name} is closed")
            await self._changed.park()

    def pick_ready(self) -> Target | None:
        """One with room for another stream if there is any, else one that will have; or None."""
        target = None
        for _ in self._ready:
            picked = self._balancer.pick(self._ready, None).target
            if picked is not None and picked.connection.usable:
                target = picked
                if picked.connection.engine.can_open_stream:
                    break
        return target

    async def explain(self, target: Target, failure: ConnectionLostError) -> Exception:
        """The error a caller is given when its connection broke: how the plugin died, if it did.

        Waits a moment for that news, which comes from the mesh and not from the socket.
        """
        subchannel: Subchannel = target.source
        with trio.move_on_after(self._obituary_wait):
            await subchannel.departed.wait()
        departure = subchannel.departure
        if departure is None or not departure.died:
            return ConnectionLostError(f"{self.name}: {failure.status.status_message}")
        return PluginDiedError(
            f"{self.name}: {departure.reason}",
            status=departure.exit_status,
            signal=departure.signal,
            stderr_tail=departure.stderr_tail,
        )

    # -- for the feed ------------------------------------------------------------------------

    def update(self, state: ServiceState) -> None:
        """Take over what the registry knows now."""
        listed = {endpoint.id: endpoint for endpoint in state.endpoints}
        departures = {departure.endpoint_id: departure for departure in state.departures}
        for endpoint_id in [i for i in self._subchannels if i not in listed]:
            self._subchannels.pop(endpoint_id).leave(departures.get(endpoint_id))
        for endpoint_id, endpoint in listed.items():
            if endpoint_id not in self._subchannels:
                subchannel = Subchannel(
                    endpoint, self._refresh, self._limits, self._tls, self._timeouts
                )
                self._subchannels[endpoint_id] = subchannel
                self._nursery.start_soon(subchannel.run)
        self._refresh()

    def _refresh(self) -> None:
        self._ready = tuple(s for s in self._subchannels.values() if s.ready)
        if self._ready:
            self._changed.unpark_all()

    async def _keep_house(self) -> None:
        while True:
            await next_beat(_HOUSEKEEPING)
            now = trio.current_time()
            for target in [s.target for s in self._subchannels.values()]:
                if target is not None:
                    target.connection.keep_house(now)

    def _close(self) -> None:
        self._closed = True
        self._ready = ()
        self._changed.unpark_all()


@asynccontextmanager
async def open_channel(
    name: str,
    feed: Feed,
    *,
    obituary_wait: float = OBITUARY_WAIT,
    limits: Limits | None = None,
    tls: Tls | None = None,
    timeouts: Timeouts | None = None,
) -> AsyncIterator[Channel]:
    """Open a channel whose endpoints come from `feed`; both end with the block.

    Calls still under way when the block is left are failed with ConnectionLostError.
    """
    async with open_nursery_of_one() as nursery:
        channel = Channel(
            name, nursery, obituary_wait=obituary_wait, limits=limits, tls=tls, timeouts=timeouts
        )
        nursery.start_soon(feed, channel.update)
        if channel._timeouts.keepalive_interval != math.inf:
            nursery.start_soon(channel._keep_house)
        try:
            yield channel
        finally:
            channel._close()
            nursery.cancel_scope.cancel()


@asynccontextmanager
async def connect_to(
    address: str,
    *,
    limits: Limits | None = None,
    tls: Tls | None = None,
    timeouts: Timeouts | None = None,
) -> AsyncIterator[Channel]:
    """Open a channel to one fixed address, `unix:/path` or `tcp:host:port`, mesh or not."""
    state = ServiceState(endpoints=(Endpoint(id=address, address=address),))

    async def feed(update: Callable[[ServiceState], None]) -> None:
        update(state)

    async with open_channel(
        address, feed, obituary_wait=0, limits=limits, tls=tls, timeouts=timeouts
    ) as channel:
        yield channel


class _BareStubSupport:
    """Stands where purerpc's own client keeps its socket, for stubs made without `stub()`."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel

    async def start_request(
        self,
        scheme: str,
        service_name: str,
        method_name: str,
        message_type: str | None = None,
        authority: str | None = None,
        custom_metadata: Any = (),
    ) -> _BareStream:
        method = Method(service_name, method_name, None, None, True, True)
        return _BareStream(self._channel, method, tuple(custom_metadata or ()))


class _BareStream:
    """The part of purerpc's stream that its own wrapper of a unary call uses."""

    end_stream_event = None

    def __init__(self, channel: Channel, method: Method, metadata: Any) -> None:
        self._channel = channel
        self._method = method
        self._metadata = metadata
        self._call: Call | None = None

    def expect_message_type(self, message_type: Any) -> None:
        method = self._method
        typed = Method(method.service, method.name, None, message_type, True, True)
        self._call = Call(self._channel, typed, CallOptions.of(self._metadata, IDENTITY))

    def _started(self) -> Call:
        if self._call is None:
            raise purerpc.ProtocolError("expect_message_type comes first")
        return self._call

    async def send_message(self, message: Any) -> None:
        await self._started().send_message(message)

    async def close(self) -> None:
        await self._started().close()

    async def receive_message(self) -> Any:
        return await self._started().receive_message()
