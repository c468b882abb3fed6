"""Makes the callables that are the methods of stubs."""

from __future__ import annotations

from collections.abc import AsyncIterable, Callable
from typing import Any

from meshtrio.client.call_destination import CallDestination, CallOptions
from meshtrio.client.streaming import StreamingCall
from meshtrio.client.unary import UnaryUnaryMultiCallable
from meshtrio.grpc.compression import IDENTITY
from meshtrio.grpc.service_config import MethodConfig
from meshtrio.rpc.method import Message, MetadataLike, Method


def make_multicallable(channel: CallDestination, method: Method) -> Callable[..., Any]:
    """Make the callable for one method of a stub, with the call forms of purerpc."""
    if not method.server_streams:
        return (StreamUnaryMultiCallable if method.client_streams else UnaryUnaryMultiCallable)(
            channel, method
        )

    def server_stream(
        message: Message,
        *,
        metadata: MetadataLike | None = None,
        compression: str = IDENTITY,
        wait_for_ready: bool | None = None,
        method_config: MethodConfig | None = None,
    ) -> StreamingCall:
        options = CallOptions.create(metadata, compression, wait_for_ready, method_config)
        return StreamingCall(channel, method, options, single_message=message)

    def both_stream(
        messages: AsyncIterable[Message] | None = None,
        *,
        metadata: MetadataLike | None = None,
        compression: str = IDENTITY,
        wait_for_ready: bool | None = None,
        method_config: MethodConfig | None = None,
    ) -> StreamingCall:
        options = CallOptions.create(metadata, compression, wait_for_ready, method_config)
        return StreamingCall(channel, method, options, messages)

    return both_stream if method.client_streams else server_stream


class StreamUnaryMultiCallable:
    """A client-streaming method of a stub: `reply = await stub.Method(requests, metadata=…)`."""

    def __init__(self, channel: CallDestination, method: Method) -> None:
        self._channel = channel
        self._method = method

    async def __call__(
        self,
        messages: AsyncIterable[Message],
        *,
        metadata: MetadataLike | None = None,
        compression: str = IDENTITY,
        wait_for_ready: bool | None = None,
        method_config: MethodConfig | None = None,
    ) -> Any:
        """Call the method, sending requests while waiting for the reply.

        Args:
            messages: The requests.
            metadata: Pairs of key and value; values of keys that end in "-bin" are bytes.
            compression: Encoding of the requests: "identity" or "gzip".
            wait_for_ready: See `UnaryUnaryMultiCallable.__call__`.
            method_config: Overrides the service config for this call.

        Returns:
            The reply.

        Raises:
            RpcFailedError: A status other than OK, as purerpc's exception for it.
            Exception: Whatever `messages` raises.

        Cancellation: the handler is cancelled too.
        """
        options = CallOptions.create(metadata, compression, wait_for_ready, method_config)
        async with StreamingCall(self._channel, self._method, options, messages) as call:
            return await call.receive_single()

    def start(
        self,
        *,
        metadata: MetadataLike | None = None,
        compression: str = IDENTITY,
        wait_for_ready: bool | None = None,
        method_config: MethodConfig | None = None,
    ) -> StreamingCall:
        """Make a call whose requests are sent by `send_message`, for `async with`.

        Args are those of `__call__`, except for the messages.

        Returns:
            The call. Its reply is received by `receive_message`.
        """
        options = CallOptions.create(metadata, compression, wait_for_ready, method_config)
        return StreamingCall(self._channel, self._method, options)
