"""What a call is started on, what it asks for, and what its attempts share (`CallContext`).

The destination is the base class of `Channel`, and knows nothing of stubs. Compare gRPC core's
src/core/lib/transport/call_destination.h.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any, TypedDict

import attrs
import purerpc
import trio

from meshtrio.client.channel_endpoint import PickArgs, PickResult
from meshtrio.client.load_balancer import LoadBalancer
from meshtrio.client.retry.policy import RetryControl
from meshtrio.client.subchannel import ConnectionOptions
from meshtrio.client.subchannel_pool import SubchannelPool
from meshtrio.discovery.endpoint import ServiceState, canonical_target
from meshtrio.errors import ConnectionLostError, PluginDiedError
from meshtrio.grpc.framing import ENCODINGS, IDENTITY
from meshtrio.grpc.metadata import Metadata, encode_metadata
from meshtrio.grpc.service_config import MethodConfig, ServiceConfig, parse_service_config
from meshtrio.grpc.status import CANCELLED, DEADLINE_EXCEEDED, UNKNOWN, CallStatus
from meshtrio.http2.hpack.encoder import HeaderBlock
from meshtrio.http2.limits import Limits
from meshtrio.rpc import channelz_registry
from meshtrio.rpc.errors import status_of_error
from meshtrio.rpc.message_limits import MessageLengths, MessageLimits
from meshtrio.rpc.method import MetadataLike, Method
from meshtrio.rpc.stats import CallCounters
from meshtrio.rpc.timeouts import Timeouts
from meshtrio.rpc.tracer import ORIGINAL, AttemptKind, ClientCallTracer, StartCall, current_tracers
from meshtrio.rpc.tracer_dispatch import notify_tracer_in_read_loop
from meshtrio.transport.dial import dial
from meshtrio.transport.transport import Transport
from meshtrio.util.busy_poll_setting import resolve_max_busy_poll
from meshtrio.util.errors import ConfigError, unwrap_exception_group
from meshtrio.util.record import Record
from meshtrio.util.shared_rng import RNG
from meshtrio.util.text import escape_unprintable
from meshtrio.util.tls_config import ClientTlsConfig

if TYPE_CHECKING:
    from meshtrio.grpc.outlier_detection import Ejection

_log = logging.getLogger("meshtrio.rpc")

_DEFAULT_SERVICE_CONFIG = ServiceConfig()
EXIT_INFO_TIMEOUT = 0.08
"""Seconds that a failed call waits for exit info, of the 0.1 s in which it has to fail."""
_GRACEFUL_EXIT_INFO_TIMEOUT = 2.0
"""Seconds that it waits if the server had sent GOAWAY with NO_ERROR: an orderly exit takes longer
than a kill."""


class CallKeywords(TypedDict, total=False):
    """Keyword arguments that all methods of a stub take."""

    metadata: MetadataLike | None
    """Pairs of key and value; values of keys that end in "-bin" are bytes."""
    compression: str
    """Encoding of the request's messages: "identity" or "gzip"."""
    wait_for_ready: bool | None
    """If False, raise UnavailableError when no endpoint is reachable. By default the service
    config's value, else True for services managed by a mesh, and False for others."""
    method_config: MethodConfig | None
    """Overrides the service config for this call."""


_PICK_ARGS = {each: PickArgs(wait_for_ready=each) for each in (None, True, False)}


@lru_cache(256)
def _make_authority(name: str) -> str:
    return "".join(c if c.isalnum() or c in ".-_" else "-" for c in name)


def _to_metadata(pairs: MetadataLike | None) -> Metadata:
    return tuple(pairs or ())


@attrs.frozen(eq=False, repr=False)
class CallOptions(Record):
    """Options of one call; see `CallKeywords`."""

    metadata: Metadata = attrs.field(default=(), converter=_to_metadata)
    compression: str = attrs.field(default=IDENTITY)
    wait_for_ready: bool | None = None
    method_config: MethodConfig | None = None

    @compression.validator
    def _check_compression(self, _: object, compression: str) -> None:
        if compression not in ENCODINGS:
            raise ValueError(f"compression {compression!r} is none of {', '.join(ENCODINGS)}")

    def make_pick_args(self, config: MethodConfig) -> PickArgs:
        """Resolve `wait_for_ready`: the caller's option overrides the service config."""
        wait_for_ready = self.wait_for_ready
        return _PICK_ARGS[config.wait_for_ready if wait_for_ready is None else wait_for_ready]

    def encode_headers(self) -> list[tuple[bytes, bytes]]:
        """Encode metadata and compression as header fields.

        Raises:
            ValueError: A key or value cannot be sent.
            TypeError: A value has the wrong type.
        """
        fields = encode_metadata(self.metadata)
        if self.compression != IDENTITY:
            fields.append((b"grpc-encoding", self.compression.encode()))
        return fields


DEFAULT_OPTIONS = CallOptions()


class CallDestination:
    """The part of a channel that its calls use, and its parts; `Channel` adds the making of calls.

    Calls use the parts directly where a delegating method would cost a frame.
    """

    def __init__(
        self,
        name: str,
        nursery: trio.Nursery,
        pool: SubchannelPool,
        exit_info_timeout: float,
        traced: bool,
        *,
        service_config: ServiceConfig | Mapping[str, Any] | None = None,
        limits: Limits | None = None,
        tls: ClientTlsConfig | None = None,
        timeouts: Timeouts | None = None,
        dialer: Callable[..., Awaitable[Transport]] = dial,
        interceptors: Sequence[Any] = (),
        metadata: MetadataLike = (),
        max_receive_message_length: int | None = None,
        max_send_message_length: int | None = None,
        sends_before_settings: bool = False,
        max_busy_poll: float | None = None,
    ) -> None:
        """Use endpoints of `pool`, with the options of a `ChannelOptions`."""
        self._is_config_fixed = service_config is not None
        if service_config is None:
            service_config = _DEFAULT_SERVICE_CONFIG
        elif not isinstance(service_config, ServiceConfig):
            # First, since it may be rejected, and channelz lists the channel below.
            service_config = parse_service_config(service_config)
        self.message_lengths = MessageLengths.from_options(
            max_receive_message_length, max_send_message_length, limits
        )
        """Limits of message lengths set by the application."""
        max_busy_poll = resolve_max_busy_poll(max_busy_poll)
        connections = ConnectionOptions(
            limits, tls, timeouts, dialer, sends_before_settings, max_busy_poll
        )
        self.name = name
        """Service name: "plugin.echo"."""
        self.target = canonical_target(name)
        """Target URI: "mesh:///plugin.echo", "unix:///path" or "dns:///host:port"."""
        self.authority = _make_authority(name)
        self.interceptors = tuple(interceptors)
        """Each a `meshtrio.client.interceptors.Interceptor`."""
        self.metadata = tuple(metadata)
        """Metadata sent with every call."""
        if self.metadata:
            encode_metadata(self.metadata)
        self.tracer = current_tracers().client if traced else None
        """Client call tracer, None if none is installed."""
        self.call_counters = CallCounters()
        """Counts calls, however many attempts each of them takes."""
        self.trace_node = channelz_registry.TraceNode()
        channelz_registry.CHANNELS[self.trace_node.channelz_id] = self
        self.retry_control = RetryControl(RNG)
        """Retry budget and throttle, shared by all calls."""
        self.picker = LoadBalancer(
            name, pool, connections, nursery, self.trace_node, self.call_counters, self._on_ejection
        )
        """Chooses the connection of each attempt."""
        self.nursery = nursery
        """Nursery of tasks that are cancelled when the channel is closed."""
        self._exit_info_timeout = exit_info_timeout
        self._config_json = ""
        self._apply_config(service_config)

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
        """The service config in effect."""
        self.hash_header = service_config.load_balancing.request_hash_header
        """Metadata key whose value ring hash maps to an endpoint, None without ring hash."""
        self.retry_control.reconfigure(service_config.retry_budget, service_config.retry_throttling)
        self.picker.apply_config(service_config)

    def _on_ejection(self, ejection: Ejection) -> None:
        tracer, target = self.tracer, self.target
        if tracer is not None:
            notify_tracer_in_read_loop(target, tracer.outlier_ejected, target, ejection)


class CallContext:
    """What `Attempt.open` needs, and what the retry loop changes between attempts."""

    __slots__ = (
        "attempt_kind",
        "channel",
        "config",
        "is_compressed",
        "message",
        "message_limits",
        "method",
        "method_headers",
        "options",
        "pick_args",
        "previous_attempts",
        "request",
        "start_tracing",
        "tracer",
    )

    def __init__(
        self,
        channel: CallDestination,
        method: Method,
        method_headers: HeaderBlock,
        start_tracing: StartCall | None,
        options: CallOptions,
        config: MethodConfig,
        message_limits: MessageLimits | None,
        pick_args: PickArgs,
    ) -> None:
        self.channel = channel
        self.method = method
        self.method_headers = method_headers
        """Request headers that all calls of the method share."""
        self.start_tracing = start_tracing
        self.options = options
        self.config = config
        self.message_limits = message_limits
        """Limits of the call's messages; None for those of the connection."""
        self.pick_args = pick_args
        self.message: Any = None
        """The only request, of a method with a single request and reply."""
        self.is_compressed = False
        """Whether that is sent compressed."""
        self.request: bytes | None = None
        """`message` as serialized by the first attempt."""
        self.tracer: ClientCallTracer | None = None
        self.attempt_kind: AttemptKind = ORIGINAL
        self.previous_attempts = 0
        """Value of `grpc-previous-rpc-attempts`; transparent retries do not count."""


def make_timeout_error(seconds: float | None) -> purerpc.DeadlineExceededError:
    """Make the error of a call that took longer than its method config allows."""
    return purerpc.DeadlineExceededError(f"the service config's timeout of {seconds:g} s passed")


def attempt_status_for(exc: BaseException, deadline: float) -> CallStatus:
    """Return the status of an attempt that an exception ended.

    The deadline, on trio's clock, tells DEADLINE_EXCEEDED from CANCELLED if it was cancelled.
    """
    exc = unwrap_exception_group(exc)
    if isinstance(exc, purerpc.RpcFailedError):
        return status_of_error(exc)
    if isinstance(exc, Exception):
        return UNKNOWN, f"{type(exc).__name__} was raised"
    return cancellation_status(deadline)


def cancellation_status(deadline: float) -> CallStatus:
    """Return the status of an attempt that its caller, or its deadline, cancelled."""
    if trio.current_time() >= deadline:
        return DEADLINE_EXCEEDED, "the caller's deadline passed"
    return CANCELLED, "the caller cancelled the call"


def call_status_for(exc: BaseException) -> CallStatus | None:
    """Return the status of a call that an exception ended; None if the caller cancelled it.

    For a cancelled call the last attempt knows whether its deadline had passed, see
    `ClientCallTracer.call_ended`.
    """
    exc = unwrap_exception_group(exc)
    return None if isinstance(exc, trio.Cancelled) else attempt_status_for(exc, math.inf)
