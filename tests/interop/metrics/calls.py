"""The calls of `cases`, made by meshtrio; see `constants` for what all clients send."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import attrs
import trio

from meshtrio.client.channel import Channel
from tests.interop.client import make_payload, output_parameters
from tests.interop.grpc_testing import interop_pb2 as pb
from tests.interop.grpc_testing.interop_grpc import TestServiceStub, UnimplementedServiceStub
from tests.interop.metrics.constants import DEADLINE, SHORT_DEADLINE, SIZES, STREAM_MESSAGES

NOT_FOUND = pb.EchoStatus(code=5, message="no such thing")
DIE = pb.EchoStatus(code=13, message="die")
_keys = itertools.count()


@attrs.frozen
class Channels:
    """Channels to the server and to an address without one, the last one with a retry policy."""

    server: Channel
    unreachable: Channel
    unreachable_with_retries: Channel

    def stub(self) -> Any:
        return self.server.stub(TestServiceStub)


Call = Callable[[Channels], Awaitable[None]]


def make_request(request: int = 2000, reply: int = 2000, **more: Any) -> Any:
    return pb.SimpleRequest(response_size=reply, payload=make_payload(request), **more)


def failing(times: int) -> list[tuple[str, str]]:
    return [("fail-times", str(times)), ("key", f"meshtrio-{next(_keys)}")]


async def empty(channels: Channels) -> None:
    await channels.stub().EmptyCall(pb.Empty())


async def unary(channels: Channels) -> None:
    await channels.stub().UnaryCall(make_request())


async def bounds(channels: Channels) -> None:
    await channels.stub().UnaryCall(make_request(1015, 1018))


async def gzip(channels: Channels) -> None:
    asked = pb.BoolValue(value=True)
    await channels.stub().UnaryCall(make_request(response_compressed=asked), compression="gzip")


async def not_found(channels: Channels) -> None:
    await channels.stub().UnaryCall(pb.SimpleRequest(response_status=NOT_FOUND))


async def broken(channels: Channels) -> None:
    await channels.stub().UnaryCall(make_request(), metadata=[("do", "break")])


async def unimplemented(channels: Channels) -> None:
    await channels.stub().UnimplementedCall(pb.Empty())


async def unknown(channels: Channels) -> None:
    await channels.server.stub(UnimplementedServiceStub).UnimplementedCall(pb.Empty())


async def requests(channels: Channels) -> None:
    async def sent() -> AsyncIterator[Any]:
        for size in SIZES:
            yield pb.StreamingInputCallRequest(payload=make_payload(size))

    await channels.stub().StreamingInputCall(sent())


async def replies(channels: Channels) -> None:
    async for _ in channels.stub().StreamingOutputCall(output_parameters(*SIZES)):
        pass


async def exchange_messages(call: Any) -> None:
    for size, sizes in STREAM_MESSAGES:
        await call.send_message(output_parameters(*sizes, request_size=size))
        await call.receive_message()


async def stream(channels: Channels) -> None:
    async with channels.stub().FullDuplexCall() as call:
        await exchange_messages(call)
        await call.close()
        await call.receive_message()


async def stream_fails(channels: Channels, status: Any = NOT_FOUND) -> None:
    async with channels.stub().FullDuplexCall() as call:
        await exchange_messages(call)
        await call.send_message(pb.StreamingOutputCallRequest(response_status=status))
        await call.receive_message()


async def retried(channels: Channels) -> None:
    await channels.stub().UnaryCall(make_request(), metadata=failing(2))


async def retried_in_vain(channels: Channels) -> None:
    await channels.stub().UnaryCall(make_request(), metadata=failing(9))


async def deadline_unary(channels: Channels) -> None:
    with trio.move_on_after(DEADLINE):
        await channels.stub().UnaryCall(make_request(), metadata=[("do", "wait")])


async def deadline_stream(channels: Channels) -> None:
    with trio.move_on_after(DEADLINE):
        async with channels.stub().FullDuplexCall() as call:
            await exchange_messages(call)
            await call.receive_message()


async def cancelled(channels: Channels) -> None:
    async with channels.stub().FullDuplexCall() as call:
        await exchange_messages(call)
        call.cancel()


async def nobody(channels: Channels) -> None:
    await channels.unreachable.stub(TestServiceStub).EmptyCall(pb.Empty(), wait_for_ready=False)


async def nobody_retried(channels: Channels) -> None:
    await channels.unreachable_with_retries.stub(TestServiceStub).EmptyCall(
        pb.Empty(), wait_for_ready=False
    )


async def nobody_deadline(channels: Channels) -> None:
    with trio.move_on_after(SHORT_DEADLINE):
        await channels.unreachable.stub(TestServiceStub).EmptyCall(pb.Empty(), wait_for_ready=True)


async def peer_dies(channels: Channels) -> None:
    await stream_fails(channels, DIE)


CALLS: dict[str, Call] = {
    call.__name__: call
    for call in (
        empty,
        unary,
        bounds,
        gzip,
        not_found,
        broken,
        unimplemented,
        unknown,
        requests,
        replies,
        stream,
        stream_fails,
        retried,
        retried_in_vain,
        deadline_unary,
        deadline_stream,
        cancelled,
        nobody,
        nobody_retried,
        nobody_deadline,
        peer_dies,
    )
}
