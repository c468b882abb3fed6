"""What code made by protoc-gen-meshtrio stands on: purerpc's classes, and types for its stubs.

The types are those of what `channel.stub(…)` puts in the place of each method.
"""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Iterable
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol, Self, TypeVar

import purerpc

if TYPE_CHECKING:
    from meshtrio.client.unary import CallMetadata
    from meshtrio.grpc.service_config import MethodConfig

Service = purerpc.Service
Client = purerpc.Client
Metadata = Iterable[tuple[str, str | bytes]]
"""Pairs; the value is bytes where the key ends in "-bin"."""

Request_contra = TypeVar("Request_contra", contravariant=True)
Reply_co = TypeVar("Reply_co", covariant=True)


class Servicer(purerpc.Servicer):
    """A purerpc servicer; its methods are overridden by who serves them."""


def signature(request: Any, reply: Any, *, stream_in: bool, stream_out: bool) -> Any:
    """purerpc's signature of a method."""
    cardinality = purerpc.Cardinality.get_cardinality_for(
        request_stream=stream_in, response_stream=stream_out
    )
    return purerpc.RPCSignature(cardinality, request, reply)


class StreamingCall(Protocol[Request_contra, Reply_co]):
    """A call with a stream: iterate its replies, or talk with it inside `async with`.

    See `meshtrio.client.streaming.StreamingCall`, which it is.
    """

    async def send_message(self, message: Request_contra, *, compress: bool = True) -> None: ...

    async def close(self) -> None: ...

    async def receive_message(self) -> Reply_co | None: ...

    def cancel(self) -> None: ...

    @property
    def initial_metadata(self) -> tuple[tuple[str, str | bytes], ...] | None: ...

    @property
    def trailing_metadata(self) -> tuple[tuple[str, str | bytes], ...] | None: ...

    def __aiter__(self) -> AsyncIterator[Reply_co]: ...

    async def __anext__(self) -> Reply_co: ...

    async def __aenter__(self) -> Self: ...

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None: ...


class UnaryUnary(Protocol[Request_contra, Reply_co]):
    """`reply = await stub.Method(request)`; see `meshtrio.client.unary.UnaryUnaryMultiCallable`."""

    async def __call__(
        self,
        message: Request_contra,
        *,
        metadata: Metadata | None = None,
        compression: str = "identity",
        compress: bool = True,
        wait_for_ready: bool | None = None,
        method_config: MethodConfig | None = None,
    ) -> Reply_co: ...

    async def with_call(
        self,
        message: Request_contra,
        *,
        metadata: Metadata | None = None,
        compression: str = "identity",
        compress: bool = True,
        wait_for_ready: bool | None = None,
        method_config: MethodConfig | None = None,
    ) -> tuple[Reply_co, CallMetadata]: ...


class UnaryStream(Protocol[Request_contra, Reply_co]):
    """`async for reply in stub.Method(request)`"""

    def __call__(
        self,
        message: Request_contra,
        *,
        metadata: Metadata | None = None,
        compression: str = "identity",
        wait_for_ready: bool | None = None,
        method_config: MethodConfig | None = None,
    ) -> StreamingCall[Request_contra, Reply_co]: ...


class StreamUnary(Protocol[Request_contra, Reply_co]):
    """`reply = await stub.Method(requests)`"""

    async def __call__(
        self,
        messages: AsyncIterable[Request_contra],
        *,
        metadata: Metadata | None = None,
        compression: str = "identity",
        wait_for_ready: bool | None = None,
        method_config: MethodConfig | None = None,
    ) -> Reply_co: ...

    def start(
        self,
        *,
        metadata: Metadata | None = None,
        compression: str = "identity",
        wait_for_ready: bool | None = None,
        method_config: MethodConfig | None = None,
    ) -> StreamingCall[Request_contra, Reply_co]: ...


class StreamStream(Protocol[Request_contra, Reply_co]):
    """`async for reply in stub.Method(requests)`, or `async with stub.Method() as call`."""

    def __call__(
        self,
        messages: AsyncIterable[Request_contra] | None = None,
        *,
        metadata: Metadata | None = None,
        compression: str = "identity",
        wait_for_ready: bool | None = None,
        method_config: MethodConfig | None = None,
    ) -> StreamingCall[Request_contra, Reply_co]: ...
