"""Makes the callables that are the methods of stubs."""

from __future__ import annotations

from collections.abc import AsyncIterable, Callable
from typing import Any

from meshtrio.client.call_destination import CallDestination, CallOptions
from meshtrio.client.streaming import StreamingCall, StreamUnaryMultiCallable
from meshtrio.client.unary import UnaryUnaryMultiCallable
from meshtrio.grpc.compression import IDENTITY
from meshtrio.grpc.service_config import MethodConfig
from meshtrio.rpc.purerpc_compat import Message, MetadataLike, Method


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
