"""gRPC's interop test cases, as a meshtrio client: each is a coroutine that takes a channel.

Source: grpc/doc/interop-test-descriptions.md.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import purerpc
import pytest
import trio

from meshtrio.client.channel import Channel
from tests.interop.grpc_testing import interop_pb2 as pb
from tests.interop.grpc_testing.interop_grpc import TestServiceStub, UnimplementedServiceStub
from tests.interop.server import INITIAL, TRAILING

LARGE_REQUEST, LARGE_RESPONSE = 271_828, 314_159
REQUEST_SIZES = (27_182, 8, 1_828, 45_904)
RESPONSE_SIZES = (31_415, 9, 2_653, 58_979)
SPECIAL = "\t\ntest with whitespace\r\nand Unicode BMP ☺ and non-BMP \U0001f608\t\n"
METADATA = [(INITIAL, "test_initial_metadata_value"), (TRAILING, b"\xab\xab\xab")]

Case = Callable[[Channel], Awaitable[None]]


def make_payload(size: int) -> Any:
    return pb.Payload(body=bytes(size))


def output_parameters(*sizes: int, request_size: int = 0) -> Any:
    parameters = [pb.ResponseParameters(size=size) for size in sizes]
    return pb.StreamingOutputCallRequest(
        response_parameters=parameters, payload=make_payload(request_size)
    )


def large_request(**more: Any) -> Any:
    return pb.SimpleRequest(
        response_size=LARGE_RESPONSE, payload=make_payload(LARGE_REQUEST), **more
    )


async def empty_unary(channel: Channel) -> None:
    assert await channel.stub(TestServiceStub).EmptyCall(pb.Empty()) == pb.Empty()


async def large_unary(channel: Channel) -> None:
    reply = await channel.stub(TestServiceStub).UnaryCall(large_request())
    assert reply.payload.body == bytes(LARGE_RESPONSE)


async def client_streaming(channel: Channel) -> None:
    async def requests() -> AsyncIterator[Any]:
        for size in REQUEST_SIZES:
            yield pb.StreamingInputCallRequest(payload=make_payload(size))

    reply = await channel.stub(TestServiceStub).StreamingInputCall(requests())
    assert reply.aggregated_payload_size == sum(REQUEST_SIZES)


async def server_streaming(channel: Channel) -> None:
    call = channel.stub(TestServiceStub).StreamingOutputCall(output_parameters(*RESPONSE_SIZES))
    assert [len(reply.payload.body) async for reply in call] == list(RESPONSE_SIZES)


async def ping_pong(channel: Channel) -> None:
    async with channel.stub(TestServiceStub).FullDuplexCall() as call:
        for request_size, response_size in zip(REQUEST_SIZES, RESPONSE_SIZES, strict=True):
            await call.send_message(output_parameters(response_size, request_size=request_size))
            assert len((await call.receive_message()).payload.body) == response_size
        await call.close()
        assert await call.receive_message() is None


async def empty_stream(channel: Channel) -> None:
    async with channel.stub(TestServiceStub).FullDuplexCall() as call:
        await call.close()
        assert await call.receive_message() is None


async def client_compressed_unary(channel: Channel) -> None:
    """The probe first: a server that does not look would take it."""
    stub = channel.stub(TestServiceStub)
    compressed = large_request(expect_compressed=pb.BoolValue(value=True))
    with pytest.raises(purerpc.InvalidArgumentError):
        await stub.UnaryCall(compressed)
    reply = await stub.UnaryCall(compressed, compression="gzip")
    assert len(reply.payload.body) == LARGE_RESPONSE
    plain = large_request(expect_compressed=pb.BoolValue(value=False))
    assert len((await stub.UnaryCall(plain)).payload.body) == LARGE_RESPONSE


async def server_compressed_unary(channel: Channel) -> None:
    stub = channel.stub(TestServiceStub)
    for flag in (True, False):
        reply = await stub.UnaryCall(large_request(response_compressed=pb.BoolValue(value=flag)))
        assert reply.payload.body == bytes(LARGE_RESPONSE)


async def client_compressed_streaming(channel: Channel) -> None:
    stub = channel.stub(TestServiceStub)

    def request(size: int, compressed: bool) -> Any:
        flag = pb.BoolValue(value=compressed)
        return pb.StreamingInputCallRequest(payload=make_payload(size), expect_compressed=flag)

    async with stub.StreamingInputCall.start() as probe:
        await probe.send_message(request(27_182, True))
        with pytest.raises(purerpc.InvalidArgumentError):
            await probe.receive_message()
    async with stub.StreamingInputCall.start(compression="gzip") as call:
        await call.send_message(request(27_182, True))
        await call.send_message(request(45_904, False), compress=False)
        await call.close()
        assert (await call.receive_message()).aggregated_payload_size == 27_182 + 45_904


async def server_compressed_streaming(channel: Channel) -> None:
    request = output_parameters(31_415, 92_653)
    request.response_parameters[0].compressed.value = True
    request.response_parameters[1].compressed.value = False
    call = channel.stub(TestServiceStub).StreamingOutputCall(request)
    seen = []
    async for reply in call:
        assert call._attempt is not None
        seen.append((len(reply.payload.body), call._attempt.stream.last_message_compressed))
    assert seen == [(31_415, True), (92_653, False)]


async def cancel_after_begin(channel: Channel) -> None:
    async with channel.stub(TestServiceStub).StreamingInputCall.start() as call:
        call.cancel()
        with pytest.raises(purerpc.CancelledError):
            await call.receive_message()


async def cancel_after_first_response(channel: Channel) -> None:
    async with channel.stub(TestServiceStub).FullDuplexCall() as call:
        await call.send_message(output_parameters(31_415, request_size=27_182))
        assert len((await call.receive_message()).payload.body) == 31_415
        call.cancel()
        with pytest.raises(purerpc.CancelledError):
            await call.receive_message()


async def timeout_on_sleeping_server(channel: Channel) -> None:
    """The deadline is the caller's scope, so it is the scope that says so."""
    with trio.move_on_after(0.001) as scope:
        async with channel.stub(TestServiceStub).FullDuplexCall() as call:
            await call.send_message(pb.StreamingOutputCallRequest(payload=make_payload(27_182)))
            await call.receive_message()
    assert scope.cancelled_caught


async def custom_metadata(channel: Channel) -> None:
    stub = channel.stub(TestServiceStub)
    _, outcome = await stub.UnaryCall.with_call(large_request(), metadata=METADATA)
    assert METADATA[0] in outcome.initial_metadata
    assert METADATA[1] in outcome.trailing_metadata
    async with stub.FullDuplexCall(metadata=METADATA) as call:
        await call.send_message(output_parameters(LARGE_RESPONSE, request_size=LARGE_REQUEST))
        await call.receive_message()
        await call.close()
        assert await call.receive_message() is None
        assert METADATA[0] in (call.initial_metadata or ())
        assert METADATA[1] in (call.trailing_metadata or ())


async def status_code_and_message(channel: Channel) -> None:
    stub = channel.stub(TestServiceStub)
    status = pb.EchoStatus(code=2, message="test status message")
    with pytest.raises(purerpc.UnknownError) as caught:
        await stub.UnaryCall(pb.SimpleRequest(response_status=status))
    assert caught.value.status.status_message == "test status message"
    async with stub.FullDuplexCall() as call:
        await call.send_message(pb.StreamingOutputCallRequest(response_status=status))
        await call.close()
        with pytest.raises(purerpc.UnknownError) as caught:
            await call.receive_message()
    assert caught.value.status.status_message == "test status message"


async def special_status_message(channel: Channel) -> None:
    status = pb.EchoStatus(code=2, message=SPECIAL)
    with pytest.raises(purerpc.UnknownError) as caught:
        await channel.stub(TestServiceStub).UnaryCall(pb.SimpleRequest(response_status=status))
    assert caught.value.status.status_message == SPECIAL


async def unimplemented_method(channel: Channel) -> None:
    with pytest.raises(purerpc.UnimplementedError):
        await channel.stub(TestServiceStub).UnimplementedCall(pb.Empty())


async def unimplemented_service(channel: Channel) -> None:
    with pytest.raises(purerpc.UnimplementedError):
        await channel.stub(UnimplementedServiceStub).UnimplementedCall(pb.Empty())


CASES: dict[str, Case] = {
    case.__name__: case
    for case in (
        empty_unary,
        large_unary,
        client_streaming,
        server_streaming,
        ping_pong,
        empty_stream,
        client_compressed_unary,
        server_compressed_unary,
        client_compressed_streaming,
        server_compressed_streaming,
        cancel_after_begin,
        cancel_after_first_response,
        timeout_on_sleeping_server,
        custom_metadata,
        status_code_and_message,
        special_status_message,
        unimplemented_method,
        unimplemented_service,
    )
}
COMPRESSED = frozenset(name for name in CASES if "compressed" in name)
"""grpc-go has neither side: its server does not look at the flags, its client has no such case."""
