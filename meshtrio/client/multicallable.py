"""The callables that are the methods of stubs, and stubs made from descriptors."""

from __future__ import annotations

import math
from collections.abc import AsyncIterable, Callable, Coroutine
from typing import Any, Final, Unpack

import attrs
import trio
from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor

from meshtrio.client.attempt import Attempt
from meshtrio.client.call_destination import (
    DEFAULT_OPTIONS,
    CallContext,
    CallDestination,
    CallKeywords,
    CallOptions,
    call_status_for,
    make_timeout_error,
)
from meshtrio.client.interceptors import intercept, make_client_call
from meshtrio.client.retry.loop import run_attempts
from meshtrio.client.streaming import StreamingCall
from meshtrio.grpc.framing import IDENTITY
from meshtrio.grpc.header_builder import build_method_headers
from meshtrio.grpc.metadata import Metadata
from meshtrio.grpc.status import STATUS_OK
from meshtrio.rpc.method import Message, Method
from meshtrio.rpc.protobuf_descriptors import method_from_descriptor
from meshtrio.rpc.tracer import ClientCallTracer
from meshtrio.rpc.tracer_dispatch import notify_tracer, start_tracer
from meshtrio.util.no_public_constructor import create
from meshtrio.util.record import Record


class CallMetadata(Record):
    """Metadata of a successful call."""

    __slots__ = ("initial_metadata", "trailing_metadata")

    def __init__(self, initial_metadata: Metadata, trailing_metadata: Metadata) -> None:
        self.initial_metadata: Final = initial_metadata
        """Metadata of the response headers."""
        self.trailing_metadata: Final = trailing_metadata
        """Metadata of the trailers."""


class MultiCallable:
    """A method of a stub: what its calls share, and how each is prepared."""

    def __init__(self, channel: CallDestination, method: Method) -> None:
        self._channel = channel
        self._method = method
        self._headers = build_method_headers(method.path, channel.authority)
        self._start_tracing = None
        if channel.tracer is not None:
            trace_method, target = channel.tracer.trace_method, channel.target
            self._start_tracing = start_tracer(trace_method, lambda: None, target, method)
        self._update_config()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._method.path} to {self._channel.name}>"

    def _update_config(self) -> None:
        """Follow the channel's service config."""
        channel, method = self._channel, self._method
        self._service_config = channel.service_config
        self._method_config = self._service_config.get_method_config(method.service, method.name)
        self._message_limits = channel.message_lengths.resolve_limits(self._method_config)
        self._pick_args = DEFAULT_OPTIONS.make_pick_args(self._method_config)
        self._is_simple = (
            not channel.interceptors
            and self._message_limits is None
            and self._method_config.is_default
            and channel.retry_control.throttle is None
        )
        """Whether a call with no method config of its own is one attempt after another."""

    def _make_context(self, keywords: CallKeywords) -> CallContext:
        """Prepare a call. Raises ValueError if its compression is unknown."""
        options = CallOptions(**keywords) if keywords else DEFAULT_OPTIONS
        channel = self._channel
        if self._service_config is not channel.service_config:
            self._update_config()
        config, limits, pick_args = self._method_config, self._message_limits, self._pick_args
        if options is not DEFAULT_OPTIONS:
            if options.method_config is not None:
                config = options.method_config
                limits = channel.message_lengths.resolve_limits(config)
            pick_args = options.make_pick_args(config)
        method, headers, start = self._method, self._headers, self._start_tracing
        return CallContext(channel, method, headers, start, options, config, limits, pick_args)

    def _make_streaming_call(
        self,
        keywords: CallKeywords,
        messages: AsyncIterable[Message] | None = None,
        single_message: Message | None = None,
    ) -> StreamingCall:
        return create(StreamingCall, self._make_context(keywords), messages, single_message)


class UnaryUnaryMultiCallable(MultiCallable):
    """A unary method of a stub: `reply = await stub.Method(request, metadata=…)`."""

    # It returns a coroutine instead of being one, so that calls wait in one frame less.
    def __call__(
        self, message: Message, *, compress: bool = True, **keywords: Unpack[CallKeywords]
    ) -> Coroutine[Any, Any, Any]:
        """Call the method.

        A call that was provably not processed is retried transparently; any other by the method's
        retry or hedging policy, within the caller's deadline (gRFC A6).

        Args:
            message: The request.
            compress: If False, the request is sent uncompressed in spite of `compression`.
            keywords: `metadata`, `compression`, `wait_for_ready` and `method_config`, see
                `CallKeywords`.

        Returns:
            The reply.

        Raises:
            RpcFailedError: A status other than OK, as purerpc's exception for it, with
                `trailing_metadata` and `status_details` (a serialized google.rpc.Status), both
                empty if the server has sent no trailers.
            ValueError: `compression` is unknown.

        Cancellation: the handler is cancelled too, as it is at the deadline of the caller's scope.
        """
        return self._call(message, compress, keywords, with_metadata=False)

    async def with_call(
        self, message: Message, *, compress: bool = True, **keywords: Unpack[CallKeywords]
    ) -> tuple[Any, CallMetadata]:
        """Call the method and return the reply's metadata too.

        Args, Raises and Cancellation are those of `__call__`.

        Returns:
            The reply and its metadata.
        """
        reply, attempt = await self._call(message, compress, keywords, with_metadata=True)
        return reply, CallMetadata(attempt.initial_metadata or (), attempt.trailing_metadata or ())

    async def _call(
        self, message: Message, compress: bool, keywords: CallKeywords, *, with_metadata: bool
    ) -> Any:
        """Make and count a call; return the reply, or with metadata the reply and its attempt."""
        call = self._make_context(keywords)
        call.message = message
        call.is_compressed = compress and call.options.compression != IDENTITY
        channel, tracer = self._channel, None
        counters = channel.call_counters
        counters.started += 1
        if call.start_tracing is not None:
            tracer = call.tracer = start_tracer(call.start_tracing, ClientCallTracer)
        try:
            if self._is_simple and call.config is self._method_config:
                result = await run_attempts(call, Attempt.exchange)
                result[1].end()
            elif channel.interceptors:
                result = await _call_intercepted(call)
            else:
                result = await _call_with_config(call)
        except BaseException as exc:
            counters.failed += 1
            if tracer is not None:
                notify_tracer(self._method.path, tracer.call_ended, call_status_for(exc))
            raise
        counters.succeeded += 1
        if tracer is not None:
            notify_tracer(self._method.path, tracer.call_ended, STATUS_OK)
        return result if with_metadata else result[0]


async def _call_intercepted(call: CallContext) -> tuple[Any, Attempt]:
    client_call = make_client_call(call)

    async def body() -> tuple[Any, Attempt]:
        call.options = attrs.evolve(call.options, metadata=client_call.metadata)
        result = await _call_with_config(call)
        client_call.attempt = result[1]
        return result

    return await intercept(call.channel.interceptors, client_call, body)


async def _call_with_config(call: CallContext) -> tuple[Any, Attempt]:
    """Make a call as its method config says, and end its attempt."""
    config, control = call.config, call.channel.retry_control
    if call.message_limits is not None:
        call.message_limits.check_send(call.message.ByteSize())
    if config.retry_policy is not None:
        control.budget.deposit(trio.current_time())
    if config.can_use_fast_path:
        result = await run_attempts(call, Attempt.exchange)
    else:
        result = await _call_within_timeout(call)
    result[1].end()
    if control.throttle is not None:
        control.throttle.on_success()
    return result


async def _call_within_timeout(call: CallContext) -> tuple[Any, Attempt]:
    """Make a call whose method config has a timeout or a hedging policy."""
    timeout, policy = call.config.timeout, call.config.hedging_policy
    with trio.move_on_after(math.inf if timeout is None else timeout):
        if policy is None:
            return await run_attempts(call, Attempt.exchange)
        from meshtrio.client.retry.hedging import call_hedged  # few methods have it

        call.channel.retry_control.budget.deposit(trio.current_time())
        return await call_hedged(call, policy, Attempt.exchange)
    raise make_timeout_error(timeout)


class StreamUnaryMultiCallable(MultiCallable):
    """A client-streaming method of a stub: `reply = await stub.Method(requests, metadata=…)`."""

    async def __call__(
        self, messages: AsyncIterable[Message], **keywords: Unpack[CallKeywords]
    ) -> Any:
        """Call the method, sending requests while waiting for the reply.

        Args:
            messages: The requests.
            keywords: See `CallKeywords`.

        Returns:
            The reply.

        Raises:
            RpcFailedError: A status other than OK, as purerpc's exception for it.
            Exception: Whatever `messages` raises.

        Cancellation: the handler is cancelled too.
        """
        async with self._make_streaming_call(keywords, messages) as call:
            return await call.receive_single()

    def start(self, **keywords: Unpack[CallKeywords]) -> StreamingCall:
        """Make a call whose requests are sent by `send_message`, for `async with`.

        Args are those of `__call__`, except for the messages.

        Returns:
            The call. Its reply is received by `receive_message`.
        """
        return self._make_streaming_call(keywords)


class UnaryStreamMultiCallable(MultiCallable):
    """A server-streaming method of a stub: `async for reply in stub.Method(request): ...`."""

    def __call__(self, message: Message, **keywords: Unpack[CallKeywords]) -> StreamingCall:
        return self._make_streaming_call(keywords, single_message=message)


class StreamStreamMultiCallable(MultiCallable):
    """A bidirectional method of a stub: `async with stub.Method() as call: ...`."""

    def __call__(
        self, messages: AsyncIterable[Message] | None = None, **keywords: Unpack[CallKeywords]
    ) -> StreamingCall:
        return self._make_streaming_call(keywords, messages)


_MULTI_CALLABLES: dict[tuple[bool, bool], Callable[..., Callable[..., Any]]] = {
    (False, False): UnaryUnaryMultiCallable,
    (True, False): StreamUnaryMultiCallable,
    (False, True): UnaryStreamMultiCallable,
    (True, True): StreamStreamMultiCallable,
}


def make_multicallable(channel: CallDestination, method: Method) -> Callable[..., Any]:
    """Make the callable for one method of a stub, with the call forms of purerpc."""
    return _MULTI_CALLABLES[method.client_streams, method.server_streams](channel, method)


class DynamicStub:
    """A stub with the methods of a service descriptor."""

    def __init__(self, channel: CallDestination, descriptor: ServiceDescriptor) -> None:
        # A method may have a name that `setattr` refuses, such as `__class__`.
        vars(self).update(
            (each.name, make_multicallable(channel, method_from_descriptor(each)))
            for each in descriptor.methods
        )

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(f"the service has no method {name!r}")


class RawReply(Record):
    """Takes the place of a message class as the type of a method's replies, for callers that parse
    them in parts, in a thread, or not at all."""

    __slots__ = ("data",)

    def __init__(self, data: bytes) -> None:
        self.data: Final = data
        """The serialized reply."""

    @classmethod
    def FromString(cls, data: Any) -> RawReply:  # noqa: N802 - protobuf's name
        return cls(bytes(data))


def make_raw_method(descriptor: MethodDescriptor) -> Method:
    """Return the method of a descriptor, with replies that are not parsed."""
    method = method_from_descriptor(descriptor)
    return Method(
        *(method.service, method.name, method.request_type, RawReply),
        *(method.client_streams, method.server_streams),
    )
