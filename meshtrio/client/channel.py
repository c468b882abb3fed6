"""A channel: calls to a service by name, spread over the endpoints that serve it now."""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncIterator, Callable, Hashable, Sequence
from contextlib import asynccontextmanager
from random import Random
from time import time
from typing import Any, TypeVar
from weakref import WeakValueDictionary

import purerpc
import trio

from meshtrio.client.calls import stub_method
from meshtrio.client.dial import Tls
from meshtrio.client.endpoint import Endpoint, ServiceState, target_of
from meshtrio.client.interceptors import Interceptor
from meshtrio.client.link import Manner
from meshtrio.client.picker import ANY, Target, Wish
from meshtrio.client.pool import Feed, Pool, shared_pool
from meshtrio.client.ranking import Ranking
from meshtrio.client.subchannel import Subchannel
from meshtrio.client.vigilance import Vigilance
from meshtrio.errors import ConfigError, ConnectionLostError, PluginDiedError
from meshtrio.policies.outlier import Verdict
from meshtrio.policies.retry import RetryBudget, Throttle
from meshtrio.policies.service_config import ServiceConfig, parse
from meshtrio.rpc import census
from meshtrio.rpc.message_limits import MessageLengths
from meshtrio.rpc.observers import observers
from meshtrio.rpc.seam import MetadataLike, Method, StubChannel, stub_methods
from meshtrio.rpc.tally import Tally
from meshtrio.rpc.timeouts import Timeouts
from meshtrio.rpc.tracing import notify_in_read_loop
from meshtrio.structured import check_in_trio, open_nursery_of_one
from meshtrio.texts import visible
from meshtrio.wire.grpc import encode_metadata
from meshtrio.wire.limits import Limits

_log = logging.getLogger("meshtrio.rpc")

T = TypeVar("T")

OBITUARY_WAIT = 0.08
"""Seconds a failed call waits to learn how its plugin died, of the 0.1 s it has to fail in."""
_EXIT_WAIT = 2.0
"""The same if the server has announced its end (GOAWAY with NO_ERROR) and left the call without an
answer: its process exits in order, which takes longer than to be killed."""


class Channel(StubChannel):
    """Calls wait here for an endpoint that is ready, within the caller's own cancel scope.

        async with m.connect("plugin.echo") as channel:
            stub = channel.stub(EchoServiceStub)

    Any number of tasks may use one channel. Its calls end with the `async with` block; connections
    are shared by all channels of the process to the same endpoint.
    """

    def __init__(
        self,
        name: str,
        nursery: trio.Nursery,
        pool: Pool,
        *,
        manner: Manner,
        config: ServiceConfig | None = None,
        obituary_wait: float = 0.0,
        interceptors: Sequence[Interceptor] = (),
        metadata: MetadataLike = (),
        observed: bool = True,
        lengths: MessageLengths | None = None,
    ) -> None:
        """Not for users, who get channels from `connect`.

        `config` goes before what the registry says; `obituary_wait`: seconds for which the feed
        may still tell why an endpoint went away.
        """
        self.name = name
        self.interceptors: tuple[Any, ...] = tuple(interceptors)
        self.metadata = tuple(metadata)
        self.lengths = lengths or MessageLengths()
        self.target = target_of(name)
        self.observer = observers().client if observed else None
        encode_metadata(self.metadata)
        self.calls = Tally()
        self.entry = census.Entry()
        census.CHANNELS.enter(self.entry.number, self)
        self._nursery = nursery
        self._pool = pool
        self._manner = manner
        self._fixed = config is not None
        self._obituary_wait = obituary_wait
        self._subchannels: dict[str, Subchannel] = {}
        self._departed: WeakValueDictionary[str, Subchannel] = WeakValueDictionary()
        """Those that left and still have calls, to be told how their processes end."""
        self._changed = trio.lowlevel.ParkingLot()
        rng = Random()
        self._ranking = Ranking(rng)
        self._vigilance = Vigilance(nursery, rng, self._refresh, self._changed, self._note_verdict)
        self._in_flight = self._pending = 0
        self._config_text = ""
        self._last_reason = ""
        self._informed = False
        """The feed has told something."""
        self._attended = True
        """Somebody sees to it that there are endpoints, or there are some."""
        self._closed = False
        self._authority = "".join(c if c.isalnum() or c in ".-_" else "-" for c in name)
        self._adopt(config or ServiceConfig())
        self._methods_made = 0

    def stub(self, stub_class: type[T]) -> T:
        """An instance of a class from protoc-gen-purerpc whose methods call through this channel.

        Unary methods are awaited; streaming ones give a `Call` to iterate or to talk with.
        Raises UsageError for any other class.
        """
        made = self._methods_made
        stub = stub_class(self)  # type: ignore[call-arg]
        if self._methods_made == made:
            for name, method in list(stub_methods(stub)):
                setattr(stub, name, stub_method(self, method))
        return stub

    def stub_method(self, method: Method) -> Callable[..., Any]:
        """Make what a stub calls a method by; for purerpc's `Stub(channel)`."""
        self._methods_made += 1
        return stub_method(self, method)

    @property
    def authority(self) -> str:
        return self._authority

    @property
    def scheme(self) -> str:
        return "http" if self._manner.tls is None else "https"

    @property
    def endpoints(self) -> tuple[Endpoint, ...]:
        """The endpoints listed now, ready or not."""
        return tuple(subchannel.endpoint for subchannel in self._subchannels.values())

    @property
    def subchannels(self) -> tuple[Subchannel, ...]:
        return tuple(self._subchannels.values())

    # -- for calls ---------------------------------------------------------------------------

    async def pick(self, wish: Wish = ANY) -> Target:
        """Wait for a ready endpoint and choose one.

        Raises ConnectionLostError once the channel is closed, UnavailableError where the call is
        not to wait, or nobody attends to the service, and none can be reached, and
        ResourceExhaustedError where too many wait.
        """
        most = self.config.bounds.max_pending
        if most is not None and self._pending >= most:
            raise purerpc.ResourceExhaustedError(f"{self.name}: {most} calls wait already")
        self._pending += 1
        self.calls.last_started = time()
        try:
            while True:
                self._rank()
                target = self.pick_ready(wish)
                if target is not None:
                    return target
                if self._closed:
                    raise ConnectionLostError(f"the channel to {self.name} is closed")
                if not (self._attended if wish.wait is None else wish.wait):
                    self._fail_fast()
                await self._changed.park()
        finally:
            self._pending -= 1

    def _fail_fast(self) -> None:
        """Raise if nothing is being tried, or asked for, for the first time."""
        why = self.trouble
        if why is not None:
            raise purerpc.UnavailableError(f"{self.name} cannot be called just now: {why}")

    @property
    def trouble(self) -> str | None:
        """Why no endpoint can be reached; None while one can, or has not been tried yet."""
        if not self._informed:
            return None
        errors = [s.link.error for s in self._subchannels.values() if not s.ejected]
        if errors and not all(errors):
            return None
        return errors[-1] if errors else self._last_reason or "it has no instance"

    async def is_reachable(self) -> bool:
        """Whether an endpoint is ready, after the first attempts to connect where none was yet."""
        while True:
            self._rank()
            if self._ranking.ready:
                return True
            if self._closed or self.trouble is not None:
                return False
            await self._changed.park()

    async def changed(self) -> None:
        """Wait until an endpoint is listed, gone, connected or lost."""
        await self._changed.park()

    def pick_ready(self, wish: Wish = ANY) -> Target | None:
        """One with room for another stream if there is any, else one that will have; or None.

        Raises ResourceExhaustedError where every one has as many calls as it may.
        """
        ready = self._ranking.ready
        if not ready:
            return None
        if wish.avoid or self._per_endpoint is not None:
            ready = self._preferred(wish)
        target = self._ranking.balancer.pick(ready, wish.key).target
        if target is not None:
            connection = target.connection
            if connection.usable and connection.engine.can_open_stream:
                return target
        return self._any_with_room()

    def _preferred(self, wish: Wish) -> Sequence[Subchannel]:
        """Those that may have another call; of them, those that were not tried yet."""
        most = self._per_endpoint
        allowed = self._ranking.ready
        if most is not None:
            allowed = [s for s in allowed if s.in_flight < most]
            if not allowed:
                text = f"{self.name}: every instance has the {most} calls it may have"
                raise purerpc.ResourceExhaustedError(text)
        return [s for s in allowed if s not in wish.avoid] or allowed

    def _any_with_room(self) -> Target | None:
        found = None
        for subchannel in self._ranking.ready:
            target = subchannel.target
            if target is not None and target.connection.usable:
                found = target
                if target.connection.engine.can_open_stream:
                    break
        return found

    def enter(self) -> None:
        """Count a call that has its endpoint. Raises ResourceExhaustedError."""
        most = self.config.bounds.max_in_flight
        if most is not None and self._in_flight >= most:
            raise purerpc.ResourceExhaustedError(f"{self.name}: {most} calls are in flight already")
        self._in_flight += 1

    def leave(self) -> None:
        self._in_flight -= 1

    async def explain(self, target: Target, failure: ConnectionLostError) -> Exception:
        """The error a caller is given when its connection broke: how the plugin died, if it did.

        Waits a moment for that news, which comes from the mesh and not from the socket.
        """
        subchannel: Subchannel = target.source
        wait = self._obituary_wait
        if wait and target.connection.peer_shuts_down:
            wait = _EXIT_WAIT
        with trio.move_on_after(wait):
            await subchannel.ended.wait()
        departure = subchannel.departure
        if departure is None or not departure.died:
            return ConnectionLostError(f"{self.name}: {failure.status.status_message}")
        return PluginDiedError(
            f"{self.name}: {visible(departure.reason)}",
            status=departure.exit_status,
            signal=departure.signal,
            stderr_tail=departure.stderr_tail,
            life=departure.life,
        )

    def record(self, target: Target, *, success: bool) -> None:
        """Count how a call ended against its endpoint."""
        self._vigilance.record(target.source, success=success)

    def _note_verdict(self, verdict: Verdict) -> None:
        if self.observer is not None:
            notify_in_read_loop(self.target, self.observer.judged, self.target, verdict)

    def may_retry(self) -> bool:
        return self._budget.withdraw(trio.current_time())

    def note_call(self) -> None:
        """A call was made that may be made again: it earns a part of a retry."""
        self._budget.deposit(trio.current_time())

    def spawn(self, task: Callable[..., Any], *args: object) -> None:
        self._nursery.start_soon(task, *args)

    # -- config ------------------------------------------------------------------------------

    def _adopt(self, config: ServiceConfig) -> None:
        """Go by this config from now on."""
        self.config = config
        self.throttle = Throttle(config.throttling) if config.throttling is not None else None
        self.hash_header = config.balancing.hash_header
        self.counts = config.bounds.max_in_flight is not None
        self._per_endpoint = config.bounds.max_in_flight_per_endpoint
        self._budget = RetryBudget(config.budget)
        self._vigilance.adopt(config.balancing.outliers, config.health_service)
        self.observes = self._vigilance.observes
        self._ranking.forget()

    # -- for the feed ------------------------------------------------------------------------

    def update(self, state: ServiceState) -> None:
        """Take over what the registry knows now."""
        self._informed = True
        self._attended = bool(state.endpoints) or not state.unattended
        if not self._fixed and state.service_config != self._config_text:
            self._read_config(state.service_config)
        listed = {endpoint.id: endpoint for endpoint in state.endpoints}
        departures = {departure.endpoint_id: departure for departure in state.departures}
        for endpoint_id in [i for i in self._subchannels if i not in listed]:
            gone, departure = self._subchannels.pop(endpoint_id), departures.get(endpoint_id)
            gone.leave(departure)
            self._departed[endpoint_id] = gone
            self._note(gone, "is gone" if departure is None else f"is gone: {departure.reason}")
        for endpoint_id, left in list(self._departed.items()):
            if endpoint_id in departures:
                left.learn(departures[endpoint_id])
        added = {
            endpoint_id: Subchannel(endpoint, self._pool, self._manner, self._refresh, self._wake)
            for endpoint_id, endpoint in listed.items()
            if endpoint_id not in self._subchannels
        }
        for subchannel in added.values():
            self._note(subchannel, "is listed")
        self._subchannels |= added
        self._vigilance.update(self._subchannels, added.values())
        if state.departures:
            self._last_reason = state.departures[-1].reason
        self._ranking.arrange(self._subchannels.values(), self.config.balancing)
        self._refresh()

    def _note(self, subchannel: Subchannel, what: str) -> None:
        """Keep what has become of an endpoint for channelz."""
        text = f"{subchannel.endpoint.address} {what}"
        self.entry.note(text, child=subchannel.link.entry.number)

    def _read_config(self, text: str) -> None:
        self._config_text = text
        try:
            self._adopt(parse(json.loads(text or "{}")))
        except (ValueError, ConfigError) as exc:
            _log.error("%s: its service config cannot be used: %s", self.name, exc)

    def _refresh(self) -> None:
        """Something is not as it was: those that wait look again."""
        self._rank()
        self._wake()

    def _wake(self) -> None:
        # Those that do not wait for a ready one want to know of failures, too.
        self._changed.unpark_all()

    def _rank(self) -> None:
        self._ranking.rank(self._subchannels.values())

    def _close(self) -> None:
        """No call outlives the block."""
        census.CHANNELS.leave(self.entry.number)
        self._closed = True
        self._ranking.ready = ()
        self._changed.unpark_all()
        lost = ConnectionLostError(f"the channel to {self.name} is closed")
        for subchannel in self._subchannels.values():
            for connection, stream in subchannel.link.streams_of(self):
                connection.cut(stream, lost)
            subchannel.leave(None)
        self._subchannels.clear()


@asynccontextmanager
async def open_channel(
    name: str,
    feed: Feed,
    *,
    feed_key: Hashable = None,
    initial: ServiceState | None = None,
    config: ServiceConfig | None = None,
    obituary_wait: float = OBITUARY_WAIT,
    limits: Limits | None = None,
    tls: Tls | None = None,
    timeouts: Timeouts | None = None,
    interceptors: Sequence[Interceptor] = (),
    metadata: MetadataLike = (),
    observed: bool = True,
    max_receive_message_length: int | None = None,
    max_send_message_length: int | None = None,
) -> AsyncIterator[Channel]:
    """Open a channel whose endpoints come from `feed`; both end with the block.

    `initial` is what is known already, so that the first calls go by the service's config, too.
    Channels with one `feed_key` share one run of their feed. `metadata` goes out with every call,
    `interceptors` are around each. Where it is not `observed`, telemetry is not told of its calls:
    those that the mesh makes for itself. Calls still under way when the block is left are failed
    with ConnectionLostError.

    `max_receive_message_length` and `max_send_message_length` are bytes of one message, before
    compression and after decompression, -1 for no limit. The smaller of them and the service
    config's maxResponseMessageBytes and maxRequestMessageBytes is in force; if neither is set,
    4 MiB may be received and any length sent. Raises UsageError for a value that is no length.
    """
    check_in_trio("connect")
    lengths = MessageLengths.of(max_receive_message_length, max_send_message_length, limits)
    manner = Manner(limits, tls, timeouts)
    async with shared_pool() as pool, open_nursery_of_one() as nursery:
        channel = Channel(
            name,
            nursery,
            pool,
            manner=manner,
            config=config,
            obituary_wait=obituary_wait,
            interceptors=interceptors,
            metadata=metadata,
            observed=observed,
            lengths=lengths,
        )
        if initial is not None:
            channel.update(initial)
        key = feed if feed_key is None else feed_key
        pool.subscribe(key, feed, channel.update)
        try:
            yield channel
        finally:
            pool.unsubscribe(key, channel.update)
            channel._close()
            nursery.cancel_scope.cancel()


@asynccontextmanager
async def connect_to(
    where: str | Endpoint,
    *,
    config: ServiceConfig | None = None,
    limits: Limits | None = None,
    tls: Tls | None = None,
    timeouts: Timeouts | None = None,
    interceptors: Sequence[Interceptor] = (),
    metadata: MetadataLike = (),
    max_receive_message_length: int | None = None,
    max_send_message_length: int | None = None,
) -> AsyncIterator[Channel]:
    """Open a channel to one fixed address, `unix:/path` or `tcp:host:port`, mesh or not.

    `where` is that, or an endpoint, whose server is then verified as it says; the other arguments
    are those of `open_channel`.
    """
    endpoint = where if isinstance(where, Endpoint) else Endpoint(id=where, address=where)
    state = ServiceState(endpoints=(endpoint,))

    async def feed(update: Callable[[ServiceState], None]) -> None:
        update(state)

    async with open_channel(
        endpoint.address,
        feed,
        config=config,
        obituary_wait=0,
        limits=limits,
        tls=tls,
        timeouts=timeouts,
        interceptors=interceptors,
        metadata=metadata,
        max_receive_message_length=max_receive_message_length,
        max_send_message_length=max_send_message_length,
    ) as channel:
        yield channel
