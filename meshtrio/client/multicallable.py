"""Makes the callables that are the methods of stubs, and stubs from descriptors."""

from __future__ import annotations

from collections.abc import AsyncIterable, Callable
from typing import Any, Unpack

import attrs
from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor

from meshtrio.client.call_destination import CallDestination, CallKeywords, make_call_options
from meshtrio.client.streaming import StreamingCall
from meshtrio.client.unary import UnaryUnaryMultiCallable
from meshtrio.rpc.method import Message, Method
from meshtrio.rpc.protobuf_descriptors import method_from_descriptor
from meshtrio.util.no_public_constructor import create


def make_multicallable(channel: CallDestination, method: Method) -> Callable[..., Any]:
    """Make the callable for one method of a stub, with the call forms of purerpc."""
    if not method.server_streams:
        cls = StreamUnaryMultiCallable if method.client_streams else UnaryUnaryMultiCallable
        return cls(channel, method)

    def server_stream(message: Message, **keywords: Unpack[CallKeywords]) -> StreamingCall:
        return create(
            StreamingCall, channel, method, make_call_options(keywords), single_message=message
        )

    def both_stream(
        messages: AsyncIterable[Message] | None = None, **keywords: Unpack[CallKeywords]
    ) -> StreamingCall:
        return create(StreamingCall, channel, method, make_call_options(keywords), messages)

    return both_stream if method.client_streams else server_stream


@attrs.frozen
class StreamUnaryMultiCallable:
    """A client-streaming method of a stub: `reply = await stub.Method(requests, metadata=…)`."""

    _channel: CallDestination
    _method: Method

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
        options = make_call_options(keywords)
        async with create(StreamingCall, self._channel, self._method, options, messages) as call:
            return await call.receive_single()

    def start(self, **keywords: Unpack[CallKeywords]) -> StreamingCall:
        """Make a call whose requests are sent by `send_message`, for `async with`.

        Args are those of `__call__`, except for the messages.

        Returns:
            The call. Its reply is received by `receive_message`.
        """
        return create(StreamingCall, self._channel, self._method, make_call_options(keywords))


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


@attrs.frozen
class RawReply:
    """Takes the place of a message class as the type of a method's replies, for callers that parse
    them in parts, in a thread, or not at all."""

    data: bytes
    """The serialized reply."""

    @classmethod
    def FromString(cls, data: Any) -> RawReply:  # noqa: N802 - protobuf's name
        return cls(bytes(data))


def make_raw_method(descriptor: MethodDescriptor) -> Method:
    """Return the method of a descriptor, with replies that are not parsed."""
    return attrs.evolve(method_from_descriptor(descriptor), response_type=RawReply)
