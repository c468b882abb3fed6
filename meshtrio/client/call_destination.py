"""What a call is started on, what it asks for, and what its attempts share (`CallContext`).

The destination is a `Channel`, which picks an endpoint for each attempt. Compare gRPC core's
src/core/lib/transport/call_destination.h.
"""

from __future__ import annotations

import math
from typing import Any, Protocol, TypedDict

import attrs
import purerpc
import trio

from meshtrio.client.channel_endpoint import PickArgs, PickResult
from meshtrio.client.load_balancer import LoadBalancer
from meshtrio.client.retry.policy import RetryControl
from meshtrio.errors import ConnectionLostError
from meshtrio.grpc.compression import ENCODINGS, IDENTITY
from meshtrio.grpc.metadata import Metadata, encode_metadata
from meshtrio.grpc.service_config import MethodConfig, ServiceConfig
from meshtrio.grpc.status import CANCELLED, DEADLINE_EXCEEDED, UNKNOWN, CallStatus
from meshtrio.http2.hpack.encoder import HeaderBlock
from meshtrio.rpc.message_limits import MessageLengths, MessageLimits
from meshtrio.rpc.method import MetadataLike, Method
from meshtrio.rpc.stats import CallCounters
from meshtrio.rpc.tracer import (
    ORIGINAL,
    AttemptKind,
    ClientCallTracer,
    ClientTracer,
    MethodTracer,
)
from meshtrio.util.errors import unwrap_exception_group


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


def _to_metadata(pairs: MetadataLike | None) -> Metadata:
    return tuple(pairs or ())


@attrs.frozen
class CallOptions:
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


class CallDestination(Protocol):
    """The part of a channel that calls use."""

    name: str
    """Service name: "plugin.echo"."""
    target: str
    """Target URI: "mesh:///plugin.echo", "unix:///path" or "dns:///host:port"."""
    authority: str
    scheme: str
    retry_control: RetryControl
    """Retry budget and throttle, shared by all calls."""
    service_config: ServiceConfig
    """The service config in effect."""
    hash_header: str | None
    """Metadata key whose value ring hash maps to an endpoint, None without ring hash."""
    interceptors: tuple[Any, ...]
    """Each a `meshtrio.client.interceptors.Interceptor`."""
    metadata: Metadata
    """Metadata sent with every call."""
    call_counters: CallCounters
    """Counts calls, however many attempts each of them takes."""
    tracer: ClientTracer | None
    """Client call tracer, None if none is installed."""
    nursery: trio.Nursery
    """Nursery of tasks that are cancelled when the channel is closed."""
    message_lengths: MessageLengths
    """Limits of message lengths set by the application."""

    picker: LoadBalancer
    """Chooses the connection of each attempt."""

    async def describe_failure(
        self, pick_result: PickResult, failure: ConnectionLostError
    ) -> ConnectionLostError:
        """Return the error to raise for a lost connection: how its process ended, if known."""


@attrs.define(eq=False, repr=False)
class CallContext:
    """What `Attempt.open` needs, and what the retry loop changes between attempts."""

    channel: CallDestination
    method: Method
    method_headers: HeaderBlock
    """Request headers that all calls of the method share."""
    method_tracer: MethodTracer | None
    options: CallOptions
    config: MethodConfig
    message_limits: MessageLimits | None
    """Limits of the call's messages; None for those of the connection."""
    pick_args: PickArgs
    tracer: ClientCallTracer | None = None
    attempt_kind: AttemptKind = ORIGINAL
    previous_attempts: int = 0
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
        return exc.status.status_code.value, str(exc.status.status_message)
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
