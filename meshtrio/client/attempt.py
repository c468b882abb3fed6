"""One attempt of a call: a stream on a connection that was picked for it, and what came of it."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Protocol

import attrs
import purerpc
import trio

from meshtrio.errors import ConnectionLostError
from meshtrio.policies.retry import PREVIOUS_ATTEMPTS, PUSHBACK, Pushback, Throttle, pushback_of
from meshtrio.policies.service_config import MethodConfig, ServiceConfig
from meshtrio.rpc.client import ClientConnection
from meshtrio.rpc.current import current
from meshtrio.rpc.seam import Message, MetadataLike, Method, Request
from meshtrio.rpc.status import error_for_http_status, error_for_status
from meshtrio.rpc.stream import Stream
from meshtrio.wire import hpack
from meshtrio.wire.compression import ENCODINGS, IDENTITY
from meshtrio.wire.errors import ErrorCode
from meshtrio.wire.grpc import Metadata, encode_metadata, encode_timeout


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
    throttle: Throttle | None
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


def request_block(method: Method, picker: Picker) -> bytes:
    """The part of a request's head that is the same for every call of a method."""
    return hpack.encode(
        [
            (b":method", b"POST"),
            (b":scheme", picker.scheme.encode()),
            (b":path", method.path.encode()),
            (b":authority", picker.authority.encode()),
            (b"te", b"trailers"),
            (b"content-type", b"application/grpc+proto"),
            (b"grpc-accept-encoding", ",".join(ENCODINGS).encode()),
            (b"user-agent", b"meshtrio"),
        ]
    )


class Attempt:
    """One stream of a call: opened on a picked connection, ended whatever happens."""

    __slots__ = (
        "_compressed",
        "_counted",
        "_deadline",
        "_method",
        "_picker",
        "_recorded",
        "stream",
        "target",
    )

    def __init__(
        self,
        picker: Picker,
        target: Target,
        stream: Stream,
        method: Method,
        deadline: float,
        *,
        compressed: bool,
    ) -> None:
        self._picker = picker
        self._compressed = compressed
        self._method = method
        self._deadline = deadline
        self._recorded = not picker.observes
        self._counted = picker.counts
        self.target = target
        self.stream = stream

    @classmethod
    async def open(
        cls,
        picker: Picker,
        method: Method,
        block: bytes,
        options: CallOptions,
        *,
        previous: int = 0,
        wish: Wish = ANY,
    ) -> Attempt:
        """Wait for a ready endpoint with room and open a stream there; nothing is written yet.

        `previous`: attempts of the same call that went before this one.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        fields = [] if options is PLAIN else options.fields()
        if picker.metadata:
            fields += encode_metadata(picker.metadata)
        serving = current.get()
        if serving is not None:
            fields += _carried(serving, options)
        if previous:
            fields.append((PREVIOUS_ATTEMPTS, b"%d" % previous))
        if picker.hash_header is not None:
            value = _value_of(picker.hash_header, (*options.metadata, *picker.metadata))
            wish = attrs.evolve(wish, key=None if value is None else str(value))
        target = picker.pick_ready(wish) or await picker.pick(wish)
        while True:
            if fields and not target.connection.engine.takes_header_list(fields):
                raise purerpc.ResourceExhaustedError("the metadata is more than the peer accepts")
            deadline = trio.current_effective_deadline()
            if picker.counts and target.connection.has_room:
                picker.enter()
            stream = target.connection.start(block + _varying_block(deadline, fields))
            if stream is not None:
                stream.owner = picker
                compressed = options.compression != IDENTITY
                return cls(picker, target, stream, method, deadline, compressed=compressed)
            # The place that was waited for is used before anything else is awaited, so that no
            # waiter is left asleep beside a free place.
            await target.connection.wait_for_room()
            if not target.connection.usable:
                target = await picker.pick(wish)

    async def receive(self) -> Any:
        """Take the next reply, None after the last if the call succeeded, else raise its status."""
        try:
            data = await self.stream.receive()
            if data is None:
                self._raise_for_status()
                return None
        except purerpc.RpcFailedError as exc:
            raise await self._explained(exc) from None
        return self._parsed(data)

    async def receive_only(self) -> Any:
        """Take the one reply of a call that has one."""
        try:
            data, count = await self.stream.receive_only()
            if self.stream.ended:
                self._raise_for_status()
        except purerpc.RpcFailedError as exc:
            raise await self._explained(exc) from None
        if data is None or count != 1:
            raise purerpc.InternalError(f"the call succeeded with {count} replies instead of one")
        return self._parsed(data)

    async def _explained(self, failure: purerpc.RpcFailedError) -> Exception:
        self._record(success=False)
        if isinstance(failure, ConnectionLostError):
            return await self._picker.explain(self.target, failure)
        return failure  # type: ignore[no-any-return]  # purerpc has no types

    def _parsed(self, data: bytes) -> Any:
        try:
            return self._method.response_type.FromString(data)
        except Exception as exc:
            raise purerpc.InternalError(f"a reply cannot be parsed: {exc}") from exc

    async def send(
        self, message: Message, *, compress: bool = True, end_stream: bool = False
    ) -> None:
        """Send a request, or learn that the call is over: `receive` then says how.

        When cancelled, the call is cancelled with it: part of the message may have gone out.
        """
        data = message.SerializeToString()
        compressed = self._compressed and compress
        try:
            await self.stream.send(data, compressed=compressed, end_stream=end_stream)
        except purerpc.RpcFailedError:
            if not self.stream.over:
                # The message was refused here; the call has no more use.
                self.end()
                raise
        except trio.Cancelled:
            self.end()
            raise

    def _raise_for_status(self) -> None:
        trailers, head = self.stream.trailers, self.stream.head
        if trailers is None and head is not None and head.http_status != 200:
            raise error_for_http_status(head.http_status)
        if trailers is None:
            raise purerpc.UnknownError("the peer ended the call without a status")
        if trailers.code:
            error = error_for_status(trailers.code, trailers.message)
            error.trailing_metadata = trailers.metadata
            error.status_details = trailers.details
            raise error
        if not self._recorded:
            self._record(success=True)

    # -- what becomes of it ------------------------------------------------------------------

    @property
    def address(self) -> str:
        """Of the endpoint it went to."""
        return "" if self.target.source is None else str(self.target.source.endpoint.address)

    @property
    def committed(self) -> bool:
        """The reply has begun, so the call may not be made again (gRFC A6)."""
        head = self.stream.head
        return head is not None and head.trailers is None

    @property
    def pushback(self) -> float | Pushback:
        """What the server says of another attempt."""
        return pushback_of(_value_of(PUSHBACK, self.trailing_metadata or ()))

    @property
    def initial_metadata(self) -> Metadata | None:
        return None if self.stream.head is None else self.stream.head.metadata

    @property
    def trailing_metadata(self) -> Metadata | None:
        return None if self.stream.trailers is None else self.stream.trailers.metadata

    def end(self) -> None:
        """Cancel the call where it is not over; never blocks, and may be repeated."""
        if not self._recorded and not self.stream.over and trio.current_time() >= self._deadline:
            # Its caller gave it all the time there was.
            self._record(success=False)
        self.stream.reset(ErrorCode.CANCEL)
        if self._counted:
            self._counted = False
            self._picker.leave()

    def _record(self, *, success: bool) -> None:
        if not self._recorded:
            self._recorded = True
            self._picker.record(self.target, success=success)


def _varying_block(deadline: float, metadata: list[tuple[bytes, bytes]]) -> bytes:
    """The rest of the head: what is left of the caller's deadline, and its metadata."""
    block = b""
    if deadline != math.inf:
        left = deadline - trio.current_time()
        block = hpack.encode_field(b"grpc-timeout", encode_timeout(left).encode())
    if metadata:
        block += hpack.encode(metadata)
    return block


def _carried(serving: Request, options: CallOptions) -> list[tuple[bytes, bytes]]:
    """The trace and baggage of the call that is served, but for what the caller says itself."""
    said = {key for key, _ in options.metadata}
    return encode_metadata(tuple(p for p in serving.carried_metadata if p[0] not in said))


def _value_of(key: str, metadata: Metadata) -> str | bytes | None:
    """All values of a key, as one."""
    values = [value for name, value in metadata if name == key]
    return values[0] if len(values) == 1 else (",".join(map(str, values)) or None)
