"""What a call asks for, and what picks its endpoint: the words between a call and its channel."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import attrs

from meshtrio.client.retry.policy import RetryThrottle
from meshtrio.errors import ConnectionLostError
from meshtrio.grpc.compression import ENCODINGS, IDENTITY
from meshtrio.grpc.metadata import Metadata, encode_metadata
from meshtrio.grpc.service_config import MethodConfig, ServiceConfig
from meshtrio.rpc.client_connection import ClientConnection
from meshtrio.rpc.message_limits import MessageLengths
from meshtrio.rpc.method import MetadataLike
from meshtrio.rpc.stats import CallCounters
from meshtrio.rpc.tracer import ClientTracer


@attrs.frozen
class PickResult:
    """Where one attempt of a call goes; `source` is the picker's own."""

    connection: ClientConnection
    channel_endpoint: Any


@attrs.frozen
class CallOptions:
    """What the caller of a method may ask for beside the request."""

    metadata: Metadata = ()
    compression: str = IDENTITY
    wait_for_ready: bool | None = None
    """For a ready endpoint; None leaves it to the service's config, and that to the default."""
    method_config: MethodConfig | None = None
    """Instead of the one in the service's config."""

    @classmethod
    def create(
        cls,
        metadata: MetadataLike | None = None,
        compression: str = IDENTITY,
        wait_for_ready: bool | None = None,
        method_config: MethodConfig | None = None,
    ) -> CallOptions:
        """Raises ValueError for a compression that is not known here."""
        if (
            not metadata
            and compression == IDENTITY
            and wait_for_ready is None
            and method_config is None
        ):
            return DEFAULT_OPTIONS
        if compression not in ENCODINGS:
            raise ValueError(f"compression {compression!r} is none of {', '.join(ENCODINGS)}")
        return cls(tuple(metadata or ()), compression, wait_for_ready, method_config)

    def encode_headers(self) -> list[tuple[bytes, bytes]]:
        """The header fields for them. Raises ValueError or TypeError for what cannot be sent."""
        fields = encode_metadata(self.metadata)
        if self.compression != IDENTITY:
            fields.append((b"grpc-encoding", self.compression.encode()))
        return fields


DEFAULT_OPTIONS = CallOptions()


@attrs.frozen
class PickArgs:
    """What an attempt asks of the endpoint it is given."""

    wait_for_ready: bool | None = None
    """For one that is ready, and not just for the first connection attempts to be over. None: if
    somebody sees to it that there will be one."""
    hash_key: str | None = None
    """What a sticky call goes by."""
    excluded: frozenset[Any] = frozenset()
    """Sources that earlier attempts went to; not taken where there are others."""

    def excluding(self, channel_endpoint: Any) -> PickArgs:
        return attrs.evolve(self, excluded=self.excluded | {channel_endpoint})


DEFAULT_PICK_ARGS = PickArgs()


class CallDestination(Protocol):
    """What a call needs of its channel."""

    name: str
    """What is called: "plugin.echo"."""
    service_config: ServiceConfig
    interceptors: tuple[Any, ...]
    """Of `meshtrio.client.interceptors.Interceptor`."""
    metadata: Metadata
    """What goes out with every call."""
    call_counters: CallCounters
    """Of its users, however many attempts each takes."""
    target: str
    """What is called, as a URI: "mesh:///plugin.echo", "unix:///path" or "dns:///host:port"."""
    tracer: ClientTracer | None
    """Who wants to know of calls, None where nobody does."""
    retry_throttle: RetryThrottle | None
    message_lengths: MessageLengths
    """Limits of its messages that the application has set."""
    hash_header: str | None
    """The metadata key that sticky calls go by, where the service has one."""
    wants_results: bool
    """`record` wants to know how calls end."""
    limits_in_flight: bool
    """`enter` and `leave` want to know of each attempt."""

    @property
    def authority(self) -> str: ...

    @property
    def scheme(self) -> str: ...

    def try_pick(self, args: PickArgs = DEFAULT_PICK_ARGS) -> PickResult | None:
        """One that can take a call now, if there is any: saves the await of `pick`."""

    async def pick(self, args: PickArgs = DEFAULT_PICK_ARGS) -> PickResult: ...

    async def describe_failure(
        self, pick_result: PickResult, failure: ConnectionLostError
    ) -> Exception: ...

    def report_result(self, pick_result: PickResult, *, success: bool) -> None:
        """An attempt there has ended, by itself or past its deadline."""

    def acquire_slot(self) -> None:
        """An attempt has its endpoint. Raises ResourceExhaustedError where that is one too many."""

    def release_slot(self) -> None:
        """It is over."""

    def deposit_retry_budget(self) -> None:
        """A call is made that may be made again."""

    def withdraw_retry_budget(self) -> bool:
        """Take a retry from the service's budget, if there is one left."""

    def start_soon(self, task: Callable[..., Any], *args: object) -> None:
        """Start a task that lives no longer than the channel: a call's sender."""
