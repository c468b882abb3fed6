"""Metadata, status details and compression, as handlers set them and callers receive them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from typing import Any

import purerpc
import pytest
from echo.v1.echo_grpc import EchoServiceStub
from echo.v1.echo_pb2 import EchoReply, EchoRequest

from meshtrio.client.channel import connect_to
from meshtrio.http2 import frames
from meshtrio.http2.limits import Limits
from tests.support.connection_pairs import (
    CallbackServicer,
    ConnectionPair,
    connect_pair,
    echo_reply,
    echo_request,
    echo_requests,
)

LARGE = "x" * 100_000
PAIRS = (("key", "value"), ("key", "again"), ("raw-bin", b"\x00\xff"))


async def reply_with_metadata(message: EchoRequest, request: Any) -> EchoReply:
    request.initial_metadata = [("at", "first")]
    request.trailing_metadata = PAIRS
    if message.message == "fail":
        request.status_details = b"details"
        raise purerpc.NotFoundError("nothing")
    return echo_reply(message.message)


async def stream_with_metadata(message: Any, request: Any) -> AsyncIterator[EchoReply]:
    yield await reply_with_metadata(message, request)
    if message.message == "fail later":
        raise purerpc.NotFoundError("nothing")


GENEROUS = CallbackServicer(Echo=reply_with_metadata, Repeat=stream_with_metadata)


async def test_metadata_of_a_unary_call() -> None:
    async with connect_pair(GENEROUS) as pair:
        answer, outcome = await pair.stub.Echo.with_call(echo_request("hi"))
        assert answer.message == "hi"
        assert outcome.initial_metadata == (("at", "first"),)
        assert outcome.trailing_metadata == PAIRS


async def test_metadata_of_a_stream() -> None:
    async with connect_pair(GENEROUS) as pair, pair.stub.Repeat(echo_request("hi")) as call:
        assert call.initial_metadata is None
        await call.receive_message()
        assert call.initial_metadata == (("at", "first"),)
        assert await call.receive_message() is None
        assert call.trailing_metadata == PAIRS


@pytest.mark.parametrize("word", ["fail", "fail later"])
async def test_metadata_of_a_failure(word: str) -> None:
    async with connect_pair(GENEROUS) as pair:
        call = pair.stub.Repeat(echo_request(word))
        with pytest.raises(purerpc.NotFoundError) as caught:
            [_ async for _ in call]
        assert caught.value.trailing_metadata == PAIRS
        assert caught.value.status_details == (b"details" if word == "fail" else b"")


@pytest.mark.parametrize("method", ["Echo", "Chat"])
async def test_an_error_made_by_the_client_has_no_metadata(method: str, short_dir: Path) -> None:
    async with connect_to(f"unix:{short_dir / 'nobody'}") as channel:
        stub = channel.stub(EchoServiceStub)
        call = {
            "Echo": partial(stub.Echo, echo_request("")),
            "Chat": lambda **options: stub.Chat(**options).receive_message(),
        }[method]
        with pytest.raises(purerpc.UnavailableError) as caught:
            await call(wait_for_ready=False)
    assert (caught.value.trailing_metadata, caught.value.status_details) == ((), b"")


@pytest.mark.parametrize("wrong", [[("grpc-x", "y")], [("k", "é")], [("k-bin", "text")]])
async def test_metadata_that_cannot_be_sent_is_the_handlers_fault(wrong: Any) -> None:
    async def handler(message: Any, request: Any) -> EchoReply:
        request.trailing_metadata = wrong
        return echo_reply("")

    async with connect_pair(CallbackServicer(Echo=handler)) as pair:
        with pytest.raises(purerpc.UnknownError):
            await pair.stub.Echo(echo_request(""))
        await pair.wait_until_idle()
        pair.assert_nothing_left()


# -- compression -------------------------------------------------------------------------------


class DataCounter:
    """Counts the bytes of DATA that a side is sent."""

    def __init__(self, pair: ConnectionPair, side: Any) -> None:
        self.size = 0
        receive = side._engine.receive_data

        def counting(data: bytes, *more: Any) -> Any:
            self.size += len(data)
            return receive(data, *more)

        side._engine.receive_data = counting


def make_compressing_handler(flag: bool) -> Any:
    async def handler(message: EchoRequest, request: Any) -> EchoReply:
        request.compression = "gzip"
        request.compress = flag
        return echo_reply(f"{request.message_compressed} {message.message}")

    return CallbackServicer(Echo=handler)


@pytest.mark.parametrize("compress", [True, False])
async def test_a_request_is_compressed_if_asked_for(compress: bool) -> None:
    async with connect_pair(make_compressing_handler(False)) as pair:
        counted = DataCounter(pair, pair.server)
        answer = await pair.stub.Echo(echo_request(LARGE), compression="gzip", compress=compress)
        assert answer.message == f"{compress} {LARGE}"
        assert (counted.size < 10_000) is compress


@pytest.mark.parametrize("compress", [True, False])
async def test_a_reply_is_compressed_if_the_handler_says_so(compress: bool) -> None:
    async with connect_pair(make_compressing_handler(compress)) as pair:
        counted = DataCounter(pair, pair.client)
        assert (await pair.stub.Echo(echo_request(LARGE))).message == f"False {LARGE}"
        assert (counted.size < 10_000) is compress


async def test_messages_of_one_stream_may_differ() -> None:
    async def handler(messages: AsyncIterator[EchoRequest], request: Any) -> EchoReply:
        return echo_reply(" ".join([str(request.message_compressed) async for _ in messages]))

    async with connect_pair(CallbackServicer(Join=handler)) as pair:
        async with pair.stub.Join.start(compression="gzip") as call:
            for compress in (True, False, True):
                await call.send_message(echo_request(LARGE), compress=compress)
            await call.close()
            assert (await call.receive_message()).message == "True False True"


async def test_an_unknown_compression_is_refused_here() -> None:
    async with connect_pair(GENEROUS) as pair:
        with pytest.raises(ValueError, match="'zip' is none of identity, gzip"):
            await pair.stub.Echo(echo_request(""), compression="zip")


async def test_a_bomb_costs_no_more_than_the_limit() -> None:
    async def echo(message: EchoRequest) -> EchoReply:
        return echo_reply("")

    limits = Limits(max_message_size=10_000)
    async with connect_pair(CallbackServicer(Echo=echo), server_limits=limits) as pair:
        with pytest.raises(purerpc.ResourceExhaustedError, match="limit of 10000"):
            await pair.stub.Echo(echo_request("\0" * 1_000_000), compression="gzip")
        await pair.stub.Echo(echo_request("small"), compression="gzip")


async def test_compressed_without_saying_so_is_an_error() -> None:
    async def echo(message: EchoRequest) -> EchoReply:
        return echo_reply("")

    async with connect_pair(CallbackServicer(Echo=echo)) as pair:
        call = pair.stub.Chat()
        await call
        pair.client.flush()
        stream = call._attempt.stream
        pair.sockets[0].sendall(frames.encode_frame(0, 1, stream.id, b"\x01\0\0\0\x01x"))
        with pytest.raises((purerpc.InternalError, purerpc.UnimplementedError)):
            await call.receive_message()


async def test_a_message_too_large_to_send_is_refused_here() -> None:
    async def echo(message: EchoRequest) -> EchoReply:
        return echo_reply("x" * 2000)

    async def join(messages: Any) -> EchoReply:
        # One that answers before it has read ends the call before there is anything to refuse.
        async for _ in messages:
            pass
        return echo_reply("")

    limits = Limits(max_send_message_size=1000)
    async with connect_pair(CallbackServicer(Echo=echo, Join=join), client_limits=limits) as pair:
        with pytest.raises(purerpc.ResourceExhaustedError, match="limit of 1000 bytes to send"):
            await pair.stub.Echo(echo_request("x" * 2000))
        with pytest.raises(purerpc.ResourceExhaustedError):
            await pair.stub.Join(echo_requests("x" * 2000))
        assert len((await pair.stub.Echo(echo_request("small"))).message) == 2000
        pair.assert_nothing_left()
    async with connect_pair(CallbackServicer(Echo=echo), server_limits=limits) as pair:
        with pytest.raises(purerpc.ResourceExhaustedError, match="to send"):
            await pair.stub.Echo(echo_request(""))
