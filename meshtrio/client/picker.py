"""What a call asks for, and what picks its endpoint: the words between a call and its channel."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import attrs

from meshtrio.errors import ConnectionLostError
from meshtrio.policies.retry import Throttle
from meshtrio.policies.service_config import MethodConfig, ServiceConfig
from meshtrio.rpc.client import ClientConnection
from meshtrio.rpc.message_limits import MessageLengths
from meshtrio.rpc.observe import ClientObserver
from meshtrio.rpc.seam import MetadataLike
from meshtrio.rpc.tally import Tally
from meshtrio.wire.compression import ENCODINGS, IDENTITY
from meshtrio.wire.grpc import Metadata, encode_metadata


@attrs.frozen
class Target:
    """Where one attempt of a call goes; `source` is the picker's own."""

    connection: ClientConnection
    source: Any


@attrs.frozen
class CallOptions:
    """What the caller of a method may ask for beside the request."""

    metadata: Metadata = ()
    compression: str = IDENTITY
    wait: bool | None = None
    """For a ready endpoint; None leaves it to the service's config, and that to the default."""
    policy: MethodConfig | None = None
    """Instead of the one in the service's config."""

    @classmethod
    def of(
        cls,
        metadata: MetadataLike | None = None,
        compression: str = IDENTITY,
        wait: bool | None = None,
        policy: MethodConfig | None = None,
    ) -> CallOptions:
        """Raises ValueError for a compression that is not known here."""
        if not metadata and compression == IDENTITY and wait is None and policy is None:
            return PLAIN
        if compression not in ENCODINGS:
            raise ValueError(f"compression {compression!r} is none of {', '.join(ENCODINGS)}")
        return cls(tuple(metadata or ()), compression, wait, policy)

    def fields(self) -> list[tuple[bytes, bytes]]:
        """The header fields for them. Raises ValueError or TypeError for what cannot be sent."""
        fields = encode_metadata(self.metadata)
        if self.compression != IDENTITY:
            fields.append((b"grpc-encoding", self.compression.encode()))
        return fields


PLAIN = CallOptions()


@attrs.frozen
class Wish:
    """What an attempt asks of the endpoint it is given."""

    wait: bool | None = None
    """For one that is ready, and not just for the first connection attempts to be over. None: if
    somebody sees to it that there will be one."""
    key: str | None = None
    """What a sticky call goes by."""
    avoid: frozenset[Any] = frozenset()
    """Sources that earlier attempts went to; not taken where there are others."""

    def elsewhere_than(self, source: Any) -> Wish:
        return attrs.evolve(self, avoid=self.avoid | {source})


ANY = Wish()


class Picker(Protocol):
    """What a call needs of its channel."""

    name: str
    """What is called: "plugin.echo"."""
    config: ServiceConfig
    interceptors: tuple[Any, ...]
    """Of `meshtrio.client.interceptors.Interceptor`."""
    metadata: Metadata
    """What goes out with every call."""
    calls: Tally
    """Of its users, however many attempts each takes."""
    target: str
    """What is called, as a URI: "mesh:///plugin.echo", "unix:///path" or "dns:///host:port"."""
    observer: ClientObserver | None
    """Who wants to know of calls, None where nobody does."""
    throttle: Throttle | None
    lengths: MessageLengths
    """Limits of its messages that the application has set."""
    hash_header: str | None
    """The metadata key that sticky calls go by, where the service has one."""
    observes: bool
    """`record` wants to know how calls end."""
    counts: bool
    """`enter` and `leave` want to know of each attempt."""

    @property
    def authority(self) -> str: ...

    @property
    def scheme(self) -> str: ...

    def pick_ready(self, wish: Wish = ANY) -> Target | None:
        """One that can take a call now, if there is any: saves the await of `pick`."""

    async def pick(self, wish: Wish = ANY) -> Target: ...

    async def explain(self, target: Target, failure: ConnectionLostError) -> Exception: ...

    def record(self, target: Target, *, success: bool) -> None:
        """An attempt there has ended, by itself or past its deadline."""

    def enter(self) -> None:
        """An attempt has its endpoint. Raises ResourceExhaustedError where that is one too many."""

    def leave(self) -> None:
        """It is over."""

    def note_call(self) -> None:
        """A call is made that may be made again."""

    def may_retry(self) -> bool:
        """Take a retry from the service's budget, if there is one left."""

    def spawn(self, task: Callable[..., Any], *args: object) -> None:
        """Start a task that lives no longer than the channel: a call's sender."""
