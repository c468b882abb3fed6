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

from meshtrio.client.call_destination import DEFAULT_PICK_ARGS, PickArgs, PickResult
from meshtrio.client.channel_endpoint import ChannelEndpoint
from meshtrio.client.endpoint_monitor import EndpointMonitor
from meshtrio.client.interceptors import Interceptor
from meshtrio.client.load_balancing.priority import PriorityPolicy
from meshtrio.client.multicallable import make_multicallable
from meshtrio.client.retry.policy import RetryBudget, RetryThrottle
from meshtrio.client.subchannel import ConnectionOptions
from meshtrio.client.subchannel_pool import Resolver, SubchannelPool, open_shared_pool
from meshtrio.discovery.endpoint import Endpoint, canonical_target
from meshtrio.discovery.service_state import ServiceState
from meshtrio.errors import ConfigError, ConnectionLostError, PluginDiedError
from meshtrio.grpc.metadata import encode_metadata
from meshtrio.grpc.outlier_detection import Ejection
from meshtrio.grpc.service_config import ServiceConfig, parse_service_config
from meshtrio.http2.limits import Limits
from meshtrio.rpc import channelz_registry
from meshtrio.rpc.composite_tracer import current_tracers
from meshtrio.rpc.message_limits import MessageLengths
from meshtrio.rpc.method import MetadataLike, Method, StubChannel
from meshtrio.rpc.purerpc_compat import iter_stub_methods
from meshtrio.rpc.stats import CallCounters
from meshtrio.rpc.timeouts import Timeouts
from meshtrio.rpc.tracer_dispatch import notify_tracer_in_read_loop
from meshtrio.transport.tls import ClientTls
from meshtrio.util.concurrency import open_collapsing_nursery
from meshtrio.util.text import escape_unprintable
from meshtrio.util.trio_check import require_trio

_log = logging.getLogger("meshtrio.rpc")

T = TypeVar("T")

EXIT_INFO_TIMEOUT = 0.08
"""Seconds a failed call waits to learn how its plugin died, of the 0.1 s it has to fail in."""
_GRACEFUL_EXIT_INFO_TIMEOUT = 2.0
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
        pool: SubchannelPool,
        *,
        connection_options: ConnectionOptions,
        service_config: ServiceConfig | None = None,
        exit_info_timeout: float = 0.0,
        interceptors: Sequence[Interceptor] = (),
        metadata: MetadataLike = (),
        traced: bool = True,
        message_lengths: MessageLengths | None = None,
    ) -> None:
        """Not for users, who get channels from `connect`.

        `config` goes before what the registry says; `obituary_wait`: seconds for which the feed
        may still tell why an endpoint went away.
        """
        self.name = name
        self.interceptors: tuple[Any, ...] = tuple(interceptors)
        self.metadata = tuple(metadata)
        self.message_lengths = message_lengths or MessageLengths()
        self.target = canonical_target(name)
        self.tracer = current_tracers().client if traced else None
        encode_metadata(self.metadata)
        self.call_counters = CallCounters()
        self.trace_node = channelz_registry.TraceNode()
        channelz_registry.CHANNELS.add(self.trace_node.channelz_id, self)
        self._nursery = nursery
        self._pool = pool
        self._connection_options = connection_options
        self._has_fixed_config = service_config is not None
        self._exit_info_timeout = exit_info_timeout
        self._endpoints: dict[str, ChannelEndpoint] = {}
        self._removed_endpoints: WeakValueDictionary[str, ChannelEndpoint] = WeakValueDictionary()
        """Those that left and still have calls, to be told how their processes end."""
        self._state_changed = trio.lowlevel.ParkingLot()
        rng = Random()
        self._priority_policy = PriorityPolicy(rng)
        self._endpoint_monitor = EndpointMonitor(
            nursery, rng, self._refresh, self._state_changed, self._on_ejection
        )
        self._in_flight = self._pending = 0
        self._service_config_json = ""
        self._last_exit_reason = ""
        self._is_resolved = False
        """The feed has told something."""
        self._is_managed = True
        """Somebody sees to it that there are endpoints, or there are some."""
        self._closed = False
        self._authority = "".join(c if c.isalnum() or c in ".-_" else "-" for c in name)
        self._apply_config(service_config or ServiceConfig())
        self._multicallable_count = 0

    def stub(self, stub_class: type[T]) -> T:
        """An instance of a class from protoc-gen-purerpc whose methods call through this channel.

        Unary methods are awaited; streaming ones give a `StreamingCall` to iterate or to talk with.
        Raises UsageError for any other class.
        """
        made = self._multicallable_count
        stub = stub_class(self)  # type: ignore[call-arg]
        if self._multicallable_count == made:
            for name, method in list(iter_stub_methods(stub)):
                setattr(stub, name, make_multicallable(self, method))
        return stub

    def make_multicallable(self, method: Method) -> Callable[..., Any]:
        """Make what a stub calls a method by; for purerpc's `Stub(channel)`."""
        self._multicallable_count += 1
        return make_multicallable(self, method)

    @property
    def authority(self) -> str:
        return self._authority

    @property
    def scheme(self) -> str:
        return "http" if self._connection_options.tls is None else "https"

    @property
    def endpoints(self) -> tuple[Endpoint, ...]:
        """The endpoints listed now, ready or not."""
        return tuple(subchannel.endpoint for subchannel in self._endpoints.values())

    @property
    def channel_endpoints(self) -> tuple[ChannelEndpoint, ...]:
        return tuple(self._endpoints.values())

    # -- for calls ---------------------------------------------------------------------------

    async def pick(self, args: PickArgs = DEFAULT_PICK_ARGS) -> PickResult:
        """Wait for a ready endpoint and choose one.

        Raises ConnectionLostError once the channel is closed, UnavailableError where the call is
        not to wait, or nobody attends to the service, and none can be reached, and
        ResourceExhaustedError where too many wait.
        """
        most = self.service_config.circuit_breakers.max_pending
        if most is not None and self._pending >= most:
            raise purerpc.ResourceExhaustedError(f"{self.name}: {most} calls wait already")
        self._pending += 1
        self.call_counters.last_started = time()
        try:
            while True:
                self._update_ready()
                target = self.try_pick(args)
                if target is not None:
                    return target
                if self._closed:
                    raise ConnectionLostError(f"the channel to {self.name} is closed")
                if not (self._is_managed if args.wait_for_ready is None else args.wait_for_ready):
                    self._fail_fast()
                await self._state_changed.park()
        finally:
            self._pending -= 1

    def _fail_fast(self) -> None:
        """Raise if nothing is being tried, or asked for, for the first time."""
        why = self.unavailable_reason
        if why is not None:
            raise purerpc.UnavailableError(f"{self.name} cannot be called just now: {why}")

    @property
    def unavailable_reason(self) -> str | None:
        """Why no endpoint can be reached; None while one can, or has not been tried yet."""
        if not self._is_resolved:
            return None
        errors = [s.subchannel.connect_error for s in self._endpoints.values() if not s.is_ejected]
        if errors and not all(errors):
            return None
        return errors[-1] if errors else self._last_exit_reason or "it has no instance"

    async def is_reachable(self) -> bool:
        """Whether an endpoint is ready, after the first attempts to connect where none was yet."""
        while True:
            self._update_ready()
            if self._priority_policy.ready:
                return True
            if self._closed or self.unavailable_reason is not None:
                return False
            await self._state_changed.park()

    async def wait_for_state_change(self) -> None:
        """Wait until an endpoint is listed, gone, connected or lost."""
        await self._state_changed.park()

    def try_pick(self, args: PickArgs = DEFAULT_PICK_ARGS) -> PickResult | None:
        """One with room for another stream if there is any, else one that will have; or None.

        Raises ResourceExhaustedError where every one has as many calls as it may.
        """
        ready = self._priority_policy.ready
        if not ready:
            return None
        if args.excluded or self._max_in_flight_per_endpoint is not None:
            ready = self._eligible_endpoints(args)
        target = self._priority_policy.balancer.pick(ready, args.hash_key).pick_result
        if target is not None:
            connection = target.connection
            if connection.is_usable and connection.engine.can_open_stream:
                return target
        return self._pick_with_stream_slot()

    def _eligible_endpoints(self, args: PickArgs) -> Sequence[ChannelEndpoint]:
        """Those that may have another call; of them, those that were not tried yet."""
        most = self._max_in_flight_per_endpoint
        allowed = self._priority_policy.ready
        if most is not None:
            allowed = [s for s in allowed if s.in_flight < most]
            if not allowed:
                text = f"{self.name}: every instance has the {most} calls it may have"
                raise purerpc.ResourceExhaustedError(text)
        return [s for s in allowed if s not in args.excluded] or allowed

    def _pick_with_stream_slot(self) -> PickResult | None:
        found = None
        for subchannel in self._priority_policy.ready:
            target = subchannel.pick_result
            if target is not None and target.connection.is_usable:
                found = target
                if target.connection.engine.can_open_stream:
                    break
        return found

    def acquire_slot(self) -> None:
        """Count a call that has its endpoint. Raises ResourceExhaustedError."""
        most = self.service_config.circuit_breakers.max_in_flight
        if most is not None and self._in_flight >= most:
            raise purerpc.ResourceExhaustedError(f"{self.name}: {most} calls are in flight already")
        self._in_flight += 1

    def release_slot(self) -> None:
        self._in_flight -= 1

    async def describe_failure(
        self, pick_result: PickResult, failure: ConnectionLostError
    ) -> Exception:
        """The error a caller is given when its connection broke: how the plugin died, if it did.

        Waits a moment for that news, which comes from the mesh and not from the socket.
        """
        subchannel: ChannelEndpoint = pick_result.channel_endpoint
        wait = self._exit_info_timeout
        if wait and pick_result.connection.is_peer_shutting_down:
            wait = _GRACEFUL_EXIT_INFO_TIMEOUT
        with trio.move_on_after(wait):
            await subchannel.process_exited.wait()
        departure = subchannel.exit_info
        if departure is None or not departure.is_process_exit:
            return ConnectionLostError(f"{self.name}: {failure.status.status_message}")
        return PluginDiedError(
            f"{self.name}: {escape_unprintable(departure.reason)}",
            exit_status=departure.exit_status,
            signal=departure.signal,
            stderr_tail=departure.stderr_tail,
            launch_id=departure.launch_id,
        )

    def report_result(self, pick_result: PickResult, *, success: bool) -> None:
        """Count how a call ended against its endpoint."""
        self._endpoint_monitor.report_result(pick_result.channel_endpoint, success=success)

    def _on_ejection(self, ejection: Ejection) -> None:
        if self.tracer is not None:
            notify_tracer_in_read_loop(
                self.target, self.tracer.outlier_ejected, self.target, ejection
            )

    def withdraw_retry_budget(self) -> bool:
        return self._retry_budget.withdraw(trio.current_time())

    def deposit_retry_budget(self) -> None:
        """A call was made that may be made again: it earns a part of a retry."""
        self._retry_budget.deposit(trio.current_time())

    def start_soon(self, task: Callable[..., Any], *args: object) -> None:
        self._nursery.start_soon(task, *args)

    # -- config ------------------------------------------------------------------------------

    def _apply_config(self, service_config: ServiceConfig) -> None:
        """Go by this config from now on."""
        self.service_config = service_config
        self.retry_throttle = (
            RetryThrottle(service_config.retry_throttling)
            if service_config.retry_throttling is not None
            else None
        )
        self.hash_header = service_config.load_balancing.request_hash_header
        self.limits_in_flight = service_config.circuit_breakers.max_in_flight is not None
        self._max_in_flight_per_endpoint = (
            service_config.circuit_breakers.max_in_flight_per_endpoint
        )
        self._retry_budget = RetryBudget(service_config.retry_budget)
        self._endpoint_monitor.apply_config(
            service_config.load_balancing.outlier_detection, service_config.health_check_service
        )
        self.wants_results = self._endpoint_monitor.wants_results
        self._priority_policy.reset()

    # -- for the feed ------------------------------------------------------------------------

    def update_state(self, state: ServiceState) -> None:
        """Take over what the registry knows now."""
        self._is_resolved = True
        self._is_managed = bool(state.endpoints) or not state.unmanaged
        if not self._has_fixed_config and state.service_config != self._service_config_json:
            self._parse_config(state.service_config)
        listed = {endpoint.id: endpoint for endpoint in state.endpoints}
        departures = {departure.endpoint_id: departure for departure in state.exit_infos}
        for endpoint_id in [i for i in self._endpoints if i not in listed]:
            gone, departure = self._endpoints.pop(endpoint_id), departures.get(endpoint_id)
            gone.remove(departure)
            self._removed_endpoints[endpoint_id] = gone
            self._trace_endpoint(
                gone, "is gone" if departure is None else f"is gone: {departure.reason}"
            )
        for endpoint_id, left in list(self._removed_endpoints.items()):
            if endpoint_id in departures:
                left.set_exit_info(departures[endpoint_id])
        added = {
            endpoint_id: ChannelEndpoint(
                endpoint, self._pool, self._connection_options, self._refresh, self._wake_waiters
            )
            for endpoint_id, endpoint in listed.items()
            if endpoint_id not in self._endpoints
        }
        for subchannel in added.values():
            self._trace_endpoint(subchannel, "is listed")
        self._endpoints |= added
        self._endpoint_monitor.update_endpoints(self._endpoints, added.values())
        if state.exit_infos:
            self._last_exit_reason = state.exit_infos[-1].reason
        self._priority_policy.update_endpoints(
            self._endpoints.values(), self.service_config.load_balancing
        )
        self._refresh()

    def _trace_endpoint(self, endpoint: ChannelEndpoint, event: str) -> None:
        """Keep what has become of an endpoint for channelz."""
        text = f"{endpoint.endpoint.address} {event}"
        self.trace_node.add_event(text, subchannel_id=endpoint.subchannel.trace_node.channelz_id)

    def _parse_config(self, text: str) -> None:
        self._service_config_json = text
        try:
            self._apply_config(parse_service_config(json.loads(text or "{}")))
        except (ValueError, ConfigError) as exc:
            _log.error("%s: its service config cannot be used: %s", self.name, exc)

    def _refresh(self) -> None:
        """Something is not as it was: those that wait look again."""
        self._update_ready()
        self._wake_waiters()

    def _wake_waiters(self) -> None:
        # Those that do not wait for a ready one want to know of failures, too.
        self._state_changed.unpark_all()

    def _update_ready(self) -> None:
        self._priority_policy.update_ready(self._endpoints.values())

    def _close(self) -> None:
        """No call outlives the block."""
        channelz_registry.CHANNELS.remove(self.trace_node.channelz_id)
        self._closed = True
        self._priority_policy.ready = ()
        self._state_changed.unpark_all()
        lost = ConnectionLostError(f"the channel to {self.name} is closed")
        for subchannel in self._endpoints.values():
            for connection, stream in subchannel.subchannel.streams_owned_by(self):
                connection.abort_stream(stream, lost)
            subchannel.remove(None)
        self._endpoints.clear()


@asynccontextmanager
async def open_channel(
    name: str,
    resolver: Resolver,
    *,
    resolver_key: Hashable = None,
    initial_state: ServiceState | None = None,
    service_config: ServiceConfig | None = None,
    exit_info_timeout: float = EXIT_INFO_TIMEOUT,
    limits: Limits | None = None,
    tls: ClientTls | None = None,
    timeouts: Timeouts | None = None,
    interceptors: Sequence[Interceptor] = (),
    metadata: MetadataLike = (),
    traced: bool = True,
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
    require_trio("connect")
    lengths = MessageLengths.from_options(
        max_receive_message_length, max_send_message_length, limits
    )
    manner = ConnectionOptions(limits, tls, timeouts)
    async with open_shared_pool() as pool, open_collapsing_nursery() as nursery:
        channel = Channel(
            name,
            nursery,
            pool,
            connection_options=manner,
            service_config=service_config,
            exit_info_timeout=exit_info_timeout,
            interceptors=interceptors,
            metadata=metadata,
            traced=traced,
            message_lengths=lengths,
        )
        if initial_state is not None:
            channel.update_state(initial_state)
        key = resolver if resolver_key is None else resolver_key
        pool.subscribe(key, resolver, channel.update_state)
        try:
            yield channel
        finally:
            pool.unsubscribe(key, channel.update_state)
            channel._close()
            nursery.cancel_scope.cancel()


@asynccontextmanager
async def connect_to(
    address: str | Endpoint,
    *,
    service_config: ServiceConfig | None = None,
    limits: Limits | None = None,
    tls: ClientTls | None = None,
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
    endpoint = address if isinstance(address, Endpoint) else Endpoint(id=address, address=address)
    state = ServiceState(endpoints=(endpoint,))

    async def feed(update: Callable[[ServiceState], None]) -> None:
        update(state)

    async with open_channel(
        endpoint.address,
        feed,
        service_config=service_config,
        exit_info_timeout=0,
        limits=limits,
        tls=tls,
        timeouts=timeouts,
        interceptors=interceptors,
        metadata=metadata,
        max_receive_message_length=max_receive_message_length,
        max_send_message_length=max_send_message_length,
    ) as channel:
        yield channel
