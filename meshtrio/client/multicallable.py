"""Calls, client side: what a stub's methods are."""

from __future__ import annotations

from collections.abc import AsyncIterable, Callable
from typing import Any

from meshtrio.client.call_destination import CallDestination, CallOptions
from meshtrio.client.streaming import StreamingCall, StreamUnaryMultiCallable
from meshtrio.client.unary import UnaryUnaryMultiCallable
from meshtrio.grpc.compression import IDENTITY
from meshtrio.grpc.service_config import MethodConfig
from meshtrio.rpc.method import Message, MetadataLike, Method


def make_multicallable(channel: CallDestination, method: Method) -> Callable[..., Any]:
    """The callable that stands in a stub for one method, in the forms purerpc's own take."""
    if not method.server_streams:
        return (StreamUnaryMultiCallable if method.client_streams else UnaryUnaryMultiCallable)(
            channel, method
        )

    def server_stream(
        message: Message,
        *,
        metadata: MetadataLike | None = None,
        compression: str = IDENTITY,
        wait: bool | None = None,
        policy: MethodConfig | None = None,
    ) -> StreamingCall:
        options = CallOptions.create(metadata, compression, wait, policy)
        return StreamingCall(channel, method, options, single_message=message)

    def both_stream(
        messages: AsyncIterable[Message] | None = None,
        *,
        metadata: MetadataLike | None = None,
        compression: str = IDENTITY,
        wait: bool | None = None,
        policy: MethodConfig | None = None,
    ) -> StreamingCall:
        options = CallOptions.create(metadata, compression, wait, policy)
        return StreamingCall(channel, method, options, messages)

    return both_stream if method.client_streams else server_stream
