"""Channels: calls to a service by name, spread over the endpoints that serve it.

`Channel` is a facade. Its parts: a resolver reports endpoints and service config;
`client/load_balancer` picks an endpoint for each attempt; `RetryControl` limits retries. They
belong to its base class, `CallDestination`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Hashable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, TypedDict, TypeVar, Unpack

import attrs

from meshtrio.client.call_destination import EXIT_INFO_TIMEOUT, CallDestination
from meshtrio.client.interceptors import Interceptor
from meshtrio.client.multicallable import make_multicallable
from meshtrio.client.subchannel_pool import Resolver, open_shared_pool
from meshtrio.discovery.endpoint import Endpoint, ServiceState
from meshtrio.grpc.service_config import ServiceConfig
from meshtrio.http2.limits import Limits
from meshtrio.rpc import channelz_registry
from meshtrio.rpc.method import MetadataLike, Method
from meshtrio.rpc.purerpc_compat import StubChannel
from meshtrio.rpc.timeouts import Timeouts
from meshtrio.transport.transport import Transport
from meshtrio.util.concurrency import open_collapsing_nursery, require_trio
from meshtrio.util.dns_target import is_dns_target
from meshtrio.util.errors import UsageError
from meshtrio.util.no_public_constructor import NoPublicConstructor, create
from meshtrio.util.tls_config import ClientTlsConfig

T = TypeVar("T")


class ChannelOptions(TypedDict, total=False):
    """Options of a channel."""

    service_config: ServiceConfig | Mapping[str, Any] | None
    """A gRPC service config, as parsed JSON or as `parse_service_config` returns it. Overrides the
    mesh's."""
    limits: Limits | None
    """HTTP/2 limits of connections, such as the size of header lists to accept. By default those of
    `Limits`."""
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
    """Entered around each call, the first one outermost."""
    metadata: MetadataLike
    """Metadata sent with each call, after the call's own."""
    max_receive_message_length: int | None
    """Bytes of the longest message to receive, after decompression; -1 for no limit. By default
    4 MiB. For each method, the smaller of this and the service config's `maxResponseMessageBytes`
    applies."""
    max_send_message_length: int | None
    """Bytes of the longest message to send, before compression; -1, the default, for no limit. For
    each method, the smaller of this and the service config's `maxRequestMessageBytes` applies."""
    max_busy_poll: float | None
    """Maximum seconds for which a connection polls its socket before the process sleeps, up to
    0.01; 0 for never. By default 0.0005. The environment's MESHTRIO_BUSY_POLL overrides it."""


class Channel(CallDestination, StubChannel, metaclass=NoPublicConstructor):
    """Makes calls to a service; a call waits for a ready endpoint within its caller's deadline.

        async with m.connect("plugin.echo") as channel:
            stub = channel.stub(EchoServiceStub)

    Any number of tasks may use one channel. Calls under way fail with ConnectionLostError when the
    `async with` block is left. Channels of the process to the same endpoint share connections.
    """

    _made_by = "use `async with mesh.connect(...)`, `Mesh.connect(...)` or `connect_to(...)`"
    _multicallable_count = 0

    def __repr__(self) -> str:
        known, ready = len(self.endpoints), len(self.picker.ready)
        return f"<Channel to {self.name}: {known} endpoints, {ready} ready>"

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


@asynccontextmanager
async def open_channel(
    name: str,
    resolver: Resolver | None,
    *,
    resolver_key: Hashable = None,
    initial_state: ServiceState | None = None,
    resolve_once: Callable[[], Awaitable[ServiceState]] | None = None,
    report_connect_failure: Callable[[str], None] | None = None,
    report_demand: Callable[[], None] | None = None,
    exit_info_timeout: float = EXIT_INFO_TIMEOUT,
    traced: bool = True,
    sends_before_settings: bool = False,
    **options: Unpack[ChannelOptions],
) -> AsyncIterator[Channel]:
    """Open a channel whose endpoints come from a resolver; both end with the block.

    Args:
        name: Name of the service.
        resolver: Reports the states of the service; None if `initial_state` does not change.
        resolver_key: Channels with the same key share one run of the resolver; by default those
            with the same resolver do.
        initial_state: State that is known already, so that the first calls follow its service
            config, too.
        resolve_once: If given, the block is entered once a state is known: the first that the
            resolver reports if this channel has started it, else what this returns. It is also
            called if the resolver's first attempt fails, and may raise the reason.
        report_connect_failure: Called with the id of an endpoint that the mesh does not run and
            that cannot be connected to, once for each of equal reasons in a row.
        report_demand: Called if a call waits for an endpoint while the plugin is idle; None if
            calls of this channel are not to start it.
        exit_info_timeout: Seconds that a failed call waits for exit info; 0 if there is none.
        traced: Whether calls are reported to telemetry; False for the mesh's own calls.
        sends_before_settings: See `ConnectionOptions`.
        options: See `ChannelOptions`.

    Yields:
        The channel. Calls under way when the block is left fail with ConnectionLostError.

    Raises:
        ConfigError: The service config is malformed.
        UsageError: A length is invalid, or this is not called from trio.
    """
    require_trio("connect")
    async with open_shared_pool() as pool, open_collapsing_nursery() as nursery:
        channel = create(
            Channel,
            name,
            nursery,
            pool,
            exit_info_timeout,
            traced,
            sends_before_settings=sends_before_settings,
            **options,
        )
        channel.picker.report_connect_failure = report_connect_failure
        channel.picker.report_demand = report_demand
        if initial_state is not None:
            channel.update_state(initial_state)
        key = resolver if resolver_key is None else resolver_key
        watch = None
        if resolver is not None:
            watch = pool.subscribe(key, resolver, channel.update_state)
        try:
            if resolve_once is not None and (watch is None or not await watch.wait_first_report()):
                channel.update_state(await resolve_once())
            yield channel
        finally:
            if resolver is not None:
                pool.unsubscribe(key, channel.update_state)
            channelz_registry.CHANNELS.pop(channel.trace_node.channelz_id, None)
            channel.picker.close(channel)
            nursery.cancel_scope.cancel()


def connect_to(
    address: str | Endpoint, **options: Unpack[ChannelOptions]
) -> AbstractAsyncContextManager[Channel]:
    """Open a channel to one fixed address, with or without a mesh.

    Args:
        address: `unix:/path`, `tcp:host:port`, or an endpoint, whose server is then verified; or a
            name whose addresses are followed in DNS, `dns:///host:port` or `dns+srv:///name`.
        options: See `ChannelOptions`.

    Yields:
        The channel. Calls under way when the block is left fail with ConnectionLostError.

    Raises:
        ConfigError: The service config is malformed.
        UsageError: A length or the name is invalid, dnspython is not installed for a name in DNS,
            or this is not called from trio.
    """
    if isinstance(address, str) and is_dns_target(address):
        return _connect_to_name(address, **options)
    endpoint = address if isinstance(address, Endpoint) else Endpoint(id=address, address=address)
    return open_endpoint_channel(endpoint, traced=True, **options)


def _connect_to_name(
    name: str, **options: Unpack[ChannelOptions]
) -> AbstractAsyncContextManager[Channel]:
    # Not at the top: few programs look up names.
    from meshtrio.discovery.dns.name_resolver import NameResolver

    resolver, tls = NameResolver.make(name), options.get("tls")
    if tls is not None and tls.server_name is None:
        options["tls"] = attrs.evolve(tls, server_name=resolver.target.server_name)
    return open_channel(
        name,
        resolver.run,
        resolver_key=resolver,
        report_connect_failure=resolver.on_connect_failure,
        exit_info_timeout=0,
        **options,
    )


def open_endpoint_channel(
    endpoint: Endpoint,
    *,
    traced: bool,
    sends_before_settings: bool = False,
    **options: Unpack[ChannelOptions],
) -> AbstractAsyncContextManager[Channel]:
    """Open a channel to one endpoint; see `open_channel`."""
    state = ServiceState(endpoints=(endpoint,))
    return open_channel(
        endpoint.address,
        None,
        initial_state=state,
        exit_info_timeout=0,
        traced=traced,
        sends_before_settings=sends_before_settings,
        **options,
    )
