"""Calls, client side: what a stub's methods are.

Unary replies are awaited; streamed ones come as a `Call`, a plain object rather than an async
generator, so that leaving a loop early, by any way, ends the call at once.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import AsyncIterable, AsyncIterator, Callable, Generator
from random import Random
from types import TracebackType
from typing import Any, Protocol, Self

import attrs
import purerpc
import trio

from meshtrio.errors import CallRefusedError, ConnectionLostError, unwrap
from meshtrio.rpc.client import ClientConnection
from meshtrio.rpc.endpoint import RECONNECT
from meshtrio.rpc.seam import Message, MetadataLike, Method
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


class Picker(Protocol):
    """What a call needs of its channel."""

    @property
    def authority(self) -> str: ...

    @property
    def scheme(self) -> str: ...

    def pick_ready(self) -> Target | None:
        """One that can take a call now, if there is any: saves the await of `pick`."""

    async def pick(self) -> Target: ...

    async def explain(self, target: Target, failure: ConnectionLostError) -> Exception: ...


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


@attrs.frozen
class CallOptions:
    """What the caller of a method may ask for beside the request."""

    metadata: Metadata = ()
    compression: str = IDENTITY

    @classmethod
    def of(cls, metadata: MetadataLike | None, compression: str) -> CallOptions:
        """Raises ValueError for a compression that is not known here."""
        if not metadata and compression == IDENTITY:
            return _PLAIN
        if compression not in ENCODINGS:
            raise ValueError(f"compression {compression!r} is none of {', '.join(ENCODINGS)}")
        return cls(tuple(metadata or ()), compression)

    def fields(self) -> list[tuple[bytes, bytes]]:
        """The header fields for them. Raises ValueError or TypeError for what cannot be sent."""
        fields = encode_metadata(self.metadata)
        if self.compression != IDENTITY:
            fields.append((b"grpc-encoding", self.compression.encode()))
        return fields


_PLAIN = CallOptions()


@attrs.frozen
class Outcome:
    """What came with the replies of a call that succeeded."""

    initial_metadata: Metadata
    trailing_metadata: Metadata


def _varying_block(metadata: list[tuple[bytes, bytes]]) -> bytes:
    """The rest of the head: what is left of the caller's deadline, and its metadata."""
    block = b""
    left = trio.current_effective_deadline() - trio.current_time()
    if left != math.inf:
        block = hpack.encode_field(b"grpc-timeout", encode_timeout(left).encode())
    if metadata:
        block += hpack.encode(metadata)
    return block


class Attempt:
    """One stream of a call: opened on a picked connection, ended whatever happens."""

    __slots__ = ("_compressed", "_parse", "_picker", "_target", "stream")

    def __init__(
        self, picker: Picker, target: Target, stream: Stream, method: Method, *, compressed: bool
    ) -> None:
        self._picker = picker
        self._target = target
        self._compressed = compressed
        self.stream = stream
        self._parse = method.response_type.FromString

    @classmethod
    async def open(
        cls, picker: Picker, method: Method, block: bytes, options: CallOptions
    ) -> Attempt:
        """Wait for a ready endpoint with room and open a stream there; nothing is written yet."""
        await trio.lowlevel.checkpoint_if_cancelled()
        fields = [] if options is _PLAIN else options.fields()
        target = picker.pick_ready() or await picker.pick()
        while True:
            if fields and not target.connection.engine.takes_header_list(fields):
                raise purerpc.ResourceExhaustedError("the metadata is more than the peer accepts")
            stream = target.connection.start(block + _varying_block(fields))
            if stream is not None:
                compressed = options.compression != IDENTITY
                return cls(picker, target, stream, method, compressed=compressed)
            # The place that was waited for is used before anything else is awaited, so that no
            # waiter is left asleep beside a free place.
            await target.connection.wait_for_room()
            if not target.connection.usable:
                target = await picker.pick()

    @property
    def connection(self) -> ClientConnection:
        return self._target.connection

    async def receive(self) -> Any:
        """Take the next reply, None after the last if the call succeeded, else raise its status."""
        try:
            data = await self.stream.receive()
        except ConnectionLostError as exc:
            raise await self._picker.explain(self._target, exc) from None
        if data is None:
            self._raise_for_status()
            return None
        return self._parsed(data)

    def _parsed(self, data: bytes) -> Any:
        try:
            return self._parse(data)
        except Exception as exc:
            raise purerpc.InternalError(f"a reply cannot be parsed: {exc}") from exc

    async def receive_only(self) -> Any:
        """Take the one reply of a call that has one."""
        try:
            data, count = await self.stream.receive_only()
        except ConnectionLostError as exc:
            raise await self._picker.explain(self._target, exc) from None
        if self.stream.ended:
            self._raise_for_status()
        if data is None or count != 1:
            raise purerpc.InternalError(f"the call succeeded with {count} replies instead of one")
        return self._parsed(data)

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

    @property
    def initial_metadata(self) -> Metadata | None:
        return None if self.stream.head is None else self.stream.head.metadata

    @property
    def trailing_metadata(self) -> Metadata | None:
        return None if self.stream.trailers is None else self.stream.trailers.metadata

    def end(self) -> None:
        """Cancel the call where it is not over; never blocks, and may be repeated."""
        self.stream.reset(ErrorCode.CANCEL)


class UnaryCall:
    """`reply = await stub.Method(request, metadata=…, compression="gzip")`"""

    def __init__(self, picker: Picker, method: Method) -> None:
        self._picker = picker
        self._method = method
        self._block = request_block(method, picker)
        self._rng = Random()

    async def __call__(
        self,
        message: Message,
        *,
        metadata: MetadataLike | None = None,
        compression: str = IDENTITY,
        compress: bool = True,
    ) -> Any:
        """Call, waiting for a ready endpoint first.

        `compression` is what the request is sent in; `compress=False` sends it as it is all the
        same. Raises purerpc's exception for a status other than OK, with what came along as its
        `trailing_metadata` and `status_details` (a serialized google.rpc.Status). When cancelled,
        or past the deadline of the caller's scope, the handler is cancelled too. A call that was
        provably not processed is made again.
        """
        options = CallOptions.of(metadata, compression)
        return (await self._call(message, options, compress))[0]

    async def with_call(
        self,
        message: Message,
        *,
        metadata: MetadataLike | None = None,
        compression: str = IDENTITY,
        compress: bool = True,
    ) -> tuple[Any, Outcome]:
        """The same, giving the reply and the metadata that came with it."""
        options = CallOptions.of(metadata, compression)
        reply, attempt = await self._call(message, options, compress)
        return reply, Outcome(attempt.initial_metadata or (), attempt.trailing_metadata or ())

    async def _call(
        self, message: Message, options: CallOptions, compress: bool
    ) -> tuple[Any, Attempt]:
        refusals = 0
        while True:
            attempt = await Attempt.open(self._picker, self._method, self._block, options)
            try:
                await attempt.send(message, compress=compress, end_stream=True)
                return await attempt.receive_only(), attempt
            except CallRefusedError:
                refusals += 1
            finally:
                attempt.end()
            await trio.sleep(RECONNECT.delay(refusals, self._rng))


class StreamUnaryCall:
    """`reply = await stub.Method(requests, metadata=…)`, `requests` an async iterable."""

    def __init__(self, picker: Picker, method: Method) -> None:
        self._picker = picker
        self._method = method

    async def __call__(
        self,
        messages: AsyncIterable[Message],
        *,
        metadata: MetadataLike | None = None,
        compression: str = IDENTITY,
    ) -> Any:
        """Call, sending while waiting for the reply; raises what `messages` raises."""
        options = CallOptions.of(metadata, compression)
        async with Call(self._picker, self._method, options, messages) as call:
            return await call._receive_only()

    def start(self, *, metadata: MetadataLike | None = None, compression: str = IDENTITY) -> Call:
        """A `Call` to send the requests of one by one, and then `receive_message` once."""
        return Call(self._picker, self._method, CallOptions.of(metadata, compression))


class Call(AsyncIterator[Any]):
    """A call under way, for the methods that stream.

        async for reply in stub.ServerStream(request): ...
        async for reply in stub.BothStream(requests): ...

        async with stub.BothStream() as call:
            await call.send_message(request)
            reply = await call.receive_message()

    It starts with its first use. It is cancelled when the block is left, when the object is
    dropped (by `break`, say), and with the task that waits on it. One task may send while
    another receives.
    """

    def __init__(
        self,
        picker: Picker,
        method: Method,
        options: CallOptions = _PLAIN,
        messages: AsyncIterable[Message] | None = None,
        *,
        single: Message | None = None,
    ) -> None:
        """`messages` are sent while replies are received; `single` is the only one."""
        self._picker = picker
        self._method = method
        self._options = options
        self._sender = None if messages is None else _Sender(messages)
        self._single = single
        self._attempt: Attempt | None = None
        self._opening = trio.Lock()
        self._cancelled = False
        self._token = trio.lowlevel.current_trio_token()

    async def _started(self) -> Attempt:
        if self._attempt is None:
            async with self._opening:
                if self._cancelled:
                    raise purerpc.CancelledError("the call was cancelled on this side")
                if self._attempt is None:
                    try:
                        await self._start()
                    except BaseException:
                        self.cancel()
                        raise
        assert self._attempt is not None
        return self._attempt

    async def _start(self) -> None:
        block = request_block(self._method, self._picker)
        attempt = await Attempt.open(self._picker, self._method, block, self._options)
        self._attempt = attempt
        if self._sender is not None:
            attempt.connection.spawn(self._sender.run, attempt)
        elif self._single is not None:
            await attempt.send(self._single, end_stream=True)

    # -- sending -----------------------------------------------------------------------------

    async def send_message(self, message: Message, *, compress: bool = True) -> None:
        """Send a request, waiting for the peer to take it. Does nothing once the call is over.

        `compress=False` sends it as it is, in spite of the call's `compression`.
        """
        await (await self._started()).send(message, compress=compress)

    async def close(self) -> None:
        """End the requests, as purerpc's streams do; replies may still be received."""
        await (await self._started()).stream.send_end()

    # -- receiving ---------------------------------------------------------------------------

    @property
    def initial_metadata(self) -> Metadata | None:
        """What came with the head of the reply, None before it came."""
        return None if self._attempt is None else self._attempt.initial_metadata

    @property
    def trailing_metadata(self) -> Metadata | None:
        """What came with the status, None before it came."""
        return None if self._attempt is None else self._attempt.trailing_metadata

    async def receive_message(self) -> Any:
        """Take the next reply, None after the last; raises the status of a call that failed.

        When cancelled, the call is cancelled with it.
        """
        try:
            attempt = await self._started()
            reply = await attempt.receive()
        except BaseException as exc:
            self.cancel()
            if self._sender is None or self._sender.error is None:
                raise
            if isinstance(exc, trio.Cancelled):
                raise
            raise unwrap(self._sender.error) from None
        if reply is None:
            self.cancel()
        return reply

    async def _receive_only(self) -> Any:
        reply = await self.receive_message()
        if reply is None:
            raise purerpc.InternalError("the call succeeded with no reply")
        if await self.receive_message() is not None:
            raise purerpc.InternalError("the call succeeded with more than one reply")
        return reply

    async def __anext__(self) -> Any:
        reply = await self.receive_message()
        if reply is None:
            raise StopAsyncIteration
        return reply

    # -- ending ------------------------------------------------------------------------------

    def cancel(self) -> None:
        """End the call now; the handler is cancelled. Does nothing where it is over."""
        self._cancelled = True
        if self._sender is not None:
            self._sender.scope.cancel()
        if self._attempt is not None:
            self._attempt.end()

    async def aclose(self) -> None:
        """The same as `cancel`, for `contextlib.aclosing`."""
        self.cancel()
        await trio.lowlevel.checkpoint()

    def __await__(self) -> Generator[Any, Any, Call]:
        """`call = await stub.Method()`, as with purerpc: start it now."""
        return self.__aenter__().__await__()

    async def __aenter__(self) -> Self:
        await self._started()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.cancel()

    def __del__(self) -> None:
        attempt = getattr(self, "_attempt", None)
        sending = getattr(self, "_sender", None) is not None
        if attempt is not None and (sending or attempt.stream.id in attempt.connection.streams):
            # The collector may run in any thread, and in the middle of anything.
            with contextlib.suppress(trio.RunFinishedError):
                self._token.run_sync_soon(_end_dropped, attempt, self._sender)


def _end_dropped(attempt: Attempt, sender: _Sender | None) -> None:
    if sender is not None:
        sender.scope.cancel()
    attempt.end()


class _Sender:
    """Sends what the caller's iterable gives, as a task of the connection.

    It knows its attempt but not its call, so that a call which is dropped is collected.
    """

    def __init__(self, messages: AsyncIterable[Message]) -> None:
        self._messages = messages
        self.scope = trio.CancelScope()
        self.error: Exception | None = None

    async def run(self, attempt: Attempt) -> None:
        try:
            with self.scope:
                await self._send_all(attempt)
        except Exception as exc:
            self.error = exc
        except BaseExceptionGroup as group:
            # The caller's clean-up failed while it was cancelled from outside.
            cancelled, errors = group.split(trio.Cancelled)
            if isinstance(errors, ExceptionGroup):
                self.error = errors
            raise cancelled or group from None
        finally:
            if self.error is not None:
                attempt.end()

    async def _send_all(self, attempt: Attempt) -> None:
        iterator: Any = aiter(self._messages)
        async with contextlib.AsyncExitStack() as stack:
            if hasattr(iterator, "aclose"):
                await stack.enter_async_context(contextlib.aclosing(iterator))
            async for message in iterator:
                await attempt.send(message)
                if attempt.stream.over:
                    return
        with contextlib.suppress(purerpc.RpcFailedError):
            await attempt.stream.send_end()


def stub_method(picker: Picker, method: Method) -> Callable[..., Any]:
    """The callable that stands in a stub for one method, in the forms purerpc's own take."""
    if not method.server_streams:
        return (StreamUnaryCall if method.client_streams else UnaryCall)(picker, method)

    def server_stream(
        message: Message, *, metadata: MetadataLike | None = None, compression: str = IDENTITY
    ) -> Call:
        return Call(picker, method, CallOptions.of(metadata, compression), single=message)

    def both_stream(
        messages: AsyncIterable[Message] | None = None,
        *,
        metadata: MetadataLike | None = None,
        compression: str = IDENTITY,
    ) -> Call:
        return Call(picker, method, CallOptions.of(metadata, compression), messages)

    return both_stream if method.client_streams else server_stream
