"""Calls, client side: what a stub's methods are."""

from __future__ import annotations

from collections.abc import AsyncIterable, Callable
from typing import Any

from meshtrio.client.picker import CallOptions, Picker
from meshtrio.client.streaming import Call, StreamUnaryCall
from meshtrio.client.unary import UnaryCall
from meshtrio.policies.service_config import MethodConfig
from meshtrio.rpc.seam import Message, MetadataLike, Method
from meshtrio.wire.compression import IDENTITY


def stub_method(picker: Picker, method: Method) -> Callable[..., Any]:
    """The callable that stands in a stub for one method, in the forms purerpc's own take."""
    if not method.server_streams:
        return (StreamUnaryCall if method.client_streams else UnaryCall)(picker, method)

    def server_stream(
        message: Message,
        *,
        metadata: MetadataLike | None = None,
        compression: str = IDENTITY,
        wait: bool | None = None,
        policy: MethodConfig | None = None,
    ) -> Call:
        options = CallOptions.of(metadata, compression, wait, policy)
        return Call(picker, method, options, single=message)

    def both_stream(
        messages: AsyncIterable[Message] | None = None,
        *,
        metadata: MetadataLike | None = None,
        compression: str = IDENTITY,
        wait: bool | None = None,
        policy: MethodConfig | None = None,
    ) -> Call:
        options = CallOptions.of(metadata, compression, wait, policy)
        return Call(picker, method, options, messages)

    return both_stream if method.client_streams else server_stream
