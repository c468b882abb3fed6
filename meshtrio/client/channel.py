"""Channels: calls to a service by name, spread over the endpoints that serve it.

`Channel` is a facade. Its parts: a resolver reports endpoints and service config;
`client/load_balancer` picks an endpoint for each attempt; `RetryControl` limits retries.
Calls use those parts directly where a delegating method would cost a frame.
"""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Hashable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from random import Random
from typing import Any, TypedDict, TypeVar, Unpack

import trio

from meshtrio.client.channel_endpoint import PickResult
from meshtrio.client.interceptors import Interceptor
from meshtrio.client.load_balancer import LoadBalancer
from meshtrio.client.multicallable import make_multicallable
from meshtrio.client.retry.policy import RetryControl
from meshtrio.client.subchannel import ConnectionOptions
from meshtrio.client.subchannel_pool import (
    Resolver,
    StateCallback,
    SubchannelPool,
    open_shared_pool,
)
from meshtrio.discovery.endpoint import Endpoint, ServiceState, canonical_target
from meshtrio.errors import ConnectionLostError, PluginDiedError
from meshtrio.grpc.metadata import encode_metadata
from meshtrio.grpc.outlier_detection import Ejection
from meshtrio.grpc.service_config import ServiceConfig, make_service_config, parse_service_config
from meshtrio.http2.limits import Limits
from meshtrio.rpc import channelz_registry
from meshtrio.rpc.composite_tracer import current_tracers
from meshtrio.rpc.message_limits import MessageLengths
from meshtrio.rpc.method import MetadataLike, Method
from meshtrio.rpc.purerpc_compat import StubChannel
from meshtrio.rpc.stats import CallCounters
from meshtrio.rpc.timeouts import Timeouts
from meshtrio.rpc.tracer_dispatch import notify_tracer_in_read_loop
from meshtrio.transport.dial import dial
from meshtrio.transport.transport import Transport
from meshtrio.util.concurrency import open_collapsing_nursery, require_trio
from meshtrio.util.errors import ConfigError, UsageError
from meshtrio.util.no_public_constructor import NoPublicConstructor, create
from meshtrio.util.text import escape_unprintable
from meshtrio.util.tls_config import ClientTlsConfig

T = TypeVar("T")

_log = logging.getLogger("meshtrio.rpc")

EXIT_INFO_TIMEOUT = 0.08
"""Seconds that a failed call waits for exit info, of the 0.1 s in which it has to fail."""
_GRACEFUL_EXIT_INFO_TIMEOUT = 2.0
"""Seconds that it waits if the server had sent GOAWAY with NO_ERROR: an orderly exit takes longer
than a kill."""


class ChannelOptions(TypedDict, total=False):
    """Options of a channel."""

    service_config: ServiceConfig | Mapping[str, Any] | None
    """A gRPC service config, as parsed JSON or as `parse_service_config` returns it. Overrides the
    mesh's."""
    limits: Limits | None
    """HTTP/2 limits of connections."""
    tls: ClientTlsConfig | None
    """TLS settings of connections; by default those of each endpoint. The files are read for each
    connection."""
    timeouts: Timeouts | None
    """Timeouts of connections. By default those of `Timeouts`, with keepalive, on TCP; on Unix
    sockets `handshake` only."""
    dialer: Callable[..., Awaitable[Transport]]
    """Connects to an endpoint, with the arguments of `meshtrio.transport.dial.dial`, which it
    replaces."""
    interceptors: Sequence[Interceptor]
    """Interceptors of all calls, the outermost first."""
    metadata: MetadataLike
    """Metadata sent with all calls."""
    max_receive_message_length: int | None
    """Bytes of one message after decompression, -1 for no limit. The service config's
    maxResponseMessageBytes applies if it is less. By default 4 MiB."""
    max_send_message_length: int | None
    """Bytes of one message before compression, -1 for no limit. The service config's
    maxRequestMessageBytes applies if it is less. By default unlimited."""


class Channel(StubChannel, metaclass=NoPublicConstructor):
    """Makes calls to a service; a call waits for a ready endpoint within its caller's deadline.

        async with m.connect("plugin.echo") as channel:
            stub = channel.stub(EchoServiceStub)

    Any number of tasks may use one channel. Calls under way fail with ConnectionLostError when the
    `async with` block is left. Channels of the process to the same endpoint share connections.
    """

    _made_by = "use `async with mesh.connect(...)`, `Mesh.connect(...)` or `connect_to(...)`"

    def __init__(
        self,
        name: str,
        nursery: trio.Nursery,
        pool: SubchannelPool,
        exit_info_timeout: float,
        traced: bool,
        options: ChannelOptions,
    ) -> None:
        """Not public: `open_channel` makes channels, whose tasks run in `nursery`."""
        limits, tls = options.get("limits"), options.get("tls")
        service_config = make_service_config(options.get("service_config"))
        receive = options.get("max_receive_message_length")
        send = options.get("max_send_message_length")
        self.message_lengths = MessageLengths.from_options(receive, send, limits)
        self.name = name
        self.target = canonical_target(name)
        self.authority = "".join(c if c.isalnum() or c in ".-_" else "-" for c in name)
        self.scheme = "http" if tls is None else "https"
        self.interceptors: tuple[Any, ...] = tuple(options.get("interceptors", ()))
        self.metadata = tuple(options.get("metadata", ()))
        encode_metadata(self.metadata)
        self.tracer = current_tracers().client if traced else None
        self.call_counters = CallCounters()
        self.trace_node = channelz_registry.TraceNode()
        channelz_registry.CHANNELS[self.trace_node.channelz_id] = self
        self.retry_control = RetryControl(Random())
        timeouts, dialer = options.get("timeouts"), options.get("dialer", dial)
        connections = ConnectionOptions(limits, tls, timeouts, dialer)
        self.picker = LoadBalancer(
            name, pool, connections, nursery, self.trace_node, self.call_counters, self._on_ejection
        )
        self.nursery = nursery
        self._exit_info_timeout = exit_info_timeout
        self._is_config_fixed = service_config is not None
        self._config_json = ""
        self._apply_config(service_config or ServiceConfig())
        self._multicallable_count = 0

    def __repr__(self) -> str:
        known, ready = len(self.endpoints), len(self.picker.ready)
        return f"<Channel to {self.name}: {known} endpoints, {ready} ready>"

    # -- for users ---------------------------------------------------------------------------

    def stub(self, stub_class: type[T]) -> T:
        """Make a stub whose methods call on this channel.

        Unary methods are awaited; streaming ones return a `StreamingCall`.

        Args:
            stub_class: A stub class from protoc-gen-purerpc or protoc-gen-meshtrio.

        Returns:
            An instance of it.

        Raises:
            UsageError: It is another class, or has no methods.
        """
        count = self._multicallable_count
        stub = stub_class(self)  # type: ignore[call-arg]
        if self._multicallable_count == count:
            name = stub_class.__qualname__
            generators = "protoc-gen-purerpc or protoc-gen-meshtrio"
            raise UsageError(f"{name} is not a stub with methods, made by {generators}")
        return stub

    def make_multicallable(self, method: Method) -> Any:
        self._multicallable_count += 1
        return make_multicallable(self, method)

    @property
    def endpoints(self) -> tuple[Endpoint, ...]:
        """Endpoints listed now, ready or not."""
        return tuple(each.endpoint for each in self.picker.endpoints)

    async def is_reachable(self) -> bool:
        """Whether an endpoint is ready, after the first attempts to connect."""
        return await self.picker.is_reachable()

    async def wait_for_state_change(self) -> None:
        """Wait until an endpoint is added, removed, connected or disconnected."""
        await self.picker.state_changed.park()

    # -- for calls ---------------------------------------------------------------------------

    async def describe_failure(
        self, pick_result: PickResult, failure: ConnectionLostError
    ) -> ConnectionLostError:
        """Wait for the exit info of an endpoint, which comes from the mesh and not from the socket.

        Returns a PluginDiedError if its process has ended, else a ConnectionLostError.
        """
        endpoint, timeout = pick_result.channel_endpoint, self._exit_info_timeout
        if timeout and pick_result.connection.is_peer_shutting_down:
            timeout = _GRACEFUL_EXIT_INFO_TIMEOUT
        with trio.move_on_after(timeout):
            await endpoint.process_exited.wait()
        exit_info = endpoint.exit_info
        if exit_info is None or not exit_info.is_process_exit:
            return ConnectionLostError(f"{self.name}: {failure.status.status_message}")
        return PluginDiedError(
            f"{self.name}: {escape_unprintable(exit_info.reason)}",
            exit_status=exit_info.exit_status,
            signal=exit_info.signal,
            stderr_tail=exit_info.stderr_tail,
            launch_id=exit_info.launch_id,
        )

    # -- for the resolver --------------------------------------------------------------------

    def update_state(self, state: ServiceState) -> None:
        """Follow a state of the service: its service config, if that is valid, and endpoints."""
        if not self._is_config_fixed and state.service_config != self._config_json:
            self._config_json = state.service_config
            try:
                service_config = parse_service_config(json.loads(self._config_json or "{}"))
            except (ValueError, ConfigError) as exc:
                _log.error("%s: invalid service config: %s", self.name, exc)
            else:
                self._apply_config(service_config)
        self.picker.update_endpoints(state)

    def _apply_config(self, service_config: ServiceConfig) -> None:
        self.service_config = service_config
        self.hash_header = service_config.load_balancing.request_hash_header
        self.retry_control.reconfigure(service_config.retry_budget, service_config.retry_throttling)
        self.picker.apply_config(service_config)

    def _on_ejection(self, ejection: Ejection) -> None:
        tracer, target = self.tracer, self.target
        if tracer is not None:
            notify_tracer_in_read_loop(target, tracer.outlier_ejected, target, ejection)


@asynccontextmanager
async def open_channel(
    name: str,
    resolver: Resolver,
    *,
    resolver_key: Hashable = None,
    initial_state: ServiceState | None = None,
    exit_info_timeout: float = EXIT_INFO_TIMEOUT,
    traced: bool = True,
    **options: Unpack[ChannelOptions],
) -> AsyncIterator[Channel]:
    """Open a channel whose endpoints come from a resolver; both end with the block.

    Args:
        name: Name of the service.
        resolver: Reports the states of the service.
        resolver_key: Channels with the same key share one run of the resolver; by default those
            with the same resolver do.
        initial_state: State that is known already, so that the first calls follow its service
            config, too.
        exit_info_timeout: Seconds that a failed call waits for exit info; 0 if there is none.
        traced: Whether calls are reported to telemetry; False for the mesh's own calls.
        options: See `ChannelOptions`.

    Yields:
        The channel. Calls under way when the block is left fail with ConnectionLostError.

    Raises:
        ConfigError: The service config is malformed.
        UsageError: A length is invalid, or this is not called from trio.
    """
    require_trio("connect")
    async with open_shared_pool() as pool, open_collapsing_nursery() as nursery:
        channel = create(Channel, name, nursery, pool, exit_info_timeout, traced, options)
        if initial_state is not None:
            channel.update_state(initial_state)
        key = resolver if resolver_key is None else resolver_key
        pool.subscribe(key, resolver, channel.update_state)
        try:
            yield channel
        finally:
            pool.unsubscribe(key, channel.update_state)
            channelz_registry.CHANNELS.pop(channel.trace_node.channelz_id, None)
            channel.picker.close(channel)
            nursery.cancel_scope.cancel()


@asynccontextmanager
async def connect_to(
    address: str | Endpoint, **options: Unpack[ChannelOptions]
) -> AsyncIterator[Channel]:
    """Open a channel to one fixed address, with or without a mesh.

    Args:
        address: `unix:/path`, `tcp:host:port`, or an endpoint, whose server is then verified.
        options: See `ChannelOptions`.

    Yields:
        The channel. Calls under way when the block is left fail with ConnectionLostError.

    Raises:
        ConfigError: The service config is malformed.
        UsageError: A length is invalid, or this is not called from trio.
    """
    endpoint = address if isinstance(address, Endpoint) else Endpoint(id=address, address=address)
    async with open_endpoint_channel(endpoint, traced=True, **options) as channel:
        yield channel


def open_endpoint_channel(
    endpoint: Endpoint, *, traced: bool, **options: Unpack[ChannelOptions]
) -> AbstractAsyncContextManager[Channel]:
    """Open a channel to one endpoint; see `open_channel`."""

    async def resolve(on_update: StateCallback) -> None:
        on_update(ServiceState(endpoints=(endpoint,)))

    return open_channel(endpoint.address, resolve, exit_info_timeout=0, traced=traced, **options)
