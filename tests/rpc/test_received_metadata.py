"""Received metadata that violates gRPC's rules: it is delivered, echoed and forwarded."""

from __future__ import annotations

from typing import Any

import purerpc
import pytest
import trio
from echo.v1.echo_pb2 import EchoReply, EchoRequest

from meshtrio.grpc.framing import frame_message
from meshtrio.grpc.metadata import ReceivedText
from meshtrio.http2 import frames
from meshtrio.http2.frames import FrameType
from meshtrio.http2.hpack import encoder
from meshtrio.http2.limits import Limits
from tests.support.connection_pairs import (
    CallbackServicer,
    connect_pair,
    connect_raw_peer,
    echo_reply,
    echo_request,
)
from tests.support.raw_calls import decode_sent_headers, request_headers_frame

ODD = (
    (b"baggage", b"who=caf\xc3\xa9"),
    (b"tracestate", b"a=1,\tb=2"),
    (b"traceparent", b"\xff\x01"),
    (b"x-raw", bytes(range(0x80, 0x100))),
    (b"x-control", b"a\x01\x7fb"),
    (b"x!odd'name", b"v"),
    (b"x-long", b"v" * 9000),
    (b"x-bin", b"AA,AP8="),
    (b"grpc-tags-bin", b"AP8"),
    (b"grpc-retry-pushback-ms", b"soon"),
)
"""What HTTP/2 allows, and what no program may write by gRPC's rules."""


def call(*fields: tuple[bytes, bytes]) -> bytes:
    body = frame_message(EchoRequest(message="hi").SerializeToString())
    return request_headers_frame(1, *fields) + frames.encode_frame(
        FrameType.DATA, frames.END_STREAM, 1, body
    )


async def test_a_handler_may_send_back_what_it_was_sent() -> None:
    async def echo(message: EchoRequest, request: Any) -> EchoReply:
        request.initial_metadata = request.custom_metadata
        request.trailing_metadata = [(key, value) for key, value in request.custom_metadata]
        return echo_reply(message.message)

    async with connect_raw_peer(CallbackServicer(Echo=echo)) as peer:
        await peer.send(call(*ODD))
        fields = decode_sent_headers(peer)
        assert (b"grpc-status", b"0") in fields
        for name, value in ODD:
            if not name.endswith(b"-bin"):
                assert fields.count((name, value)) == 2
        assert [value for name, value in fields if name == b"x-bin"] == [b"AA", b"AP8"] * 2


async def test_what_a_handler_makes_of_it_is_still_checked(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def echo(message: EchoRequest, request: Any) -> EchoReply:
        request.trailing_metadata = [("x-raw", dict(request.custom_metadata)["x-raw"] + "!")]
        return echo_reply(message.message)

    async with connect_raw_peer(CallbackServicer(Echo=echo)) as peer:
        await peer.send(call(*ODD))
        assert (b"grpc-status", b"2") in decode_sent_headers(peer)
    assert "'x-raw'" in caplog.text


async def test_it_is_carried_on_with_the_calls_of_a_handler() -> None:
    seen: list[tuple[str, str | bytes]] = []

    async def end(message: EchoRequest, request: Any) -> EchoReply:
        seen.extend(request.custom_metadata)
        return echo_reply("end")

    async with connect_pair(CallbackServicer(Echo=end)) as behind:

        async def pass_on(message: EchoRequest) -> EchoReply:
            return await behind.stub.Echo(echo_request("on"))

        async with connect_raw_peer(CallbackServicer(Echo=pass_on)) as peer:
            await peer.send(call(*ODD))
            assert (b"grpc-status", b"0") in decode_sent_headers(peer)
    carried = {"baggage", "tracestate", "traceparent", "grpc-tags-bin"}
    expected = {name.decode(): value.decode("latin-1") for name, value in ODD[:3]}
    assert {key for key, _ in seen} == carried
    assert dict(seen) == {**expected, "grpc-tags-bin": b"\x00\xff"}


async def test_it_may_be_passed_on_as_a_calls_own() -> None:
    seen: list[tuple[str, str | bytes]] = []

    async def end(message: EchoRequest, request: Any) -> EchoReply:
        seen.extend(request.custom_metadata)
        return echo_reply("end")

    async with connect_pair(CallbackServicer(Echo=end)) as behind:

        async def pass_on(message: EchoRequest, request: Any) -> EchoReply:
            return await behind.stub.Echo(message, metadata=request.custom_metadata)

        async with connect_raw_peer(CallbackServicer(Echo=pass_on)) as peer:
            await peer.send(call(*ODD))
            assert (b"grpc-status", b"0") in decode_sent_headers(peer)
    for name, value in ODD:
        if not name.endswith(b"-bin"):
            assert (name.decode(), value.decode("latin-1")) in seen


async def test_what_is_carried_and_too_long_for_a_peer_is_left_out() -> None:
    seen: list[tuple[str, str | bytes]] = []

    async def end(message: EchoRequest, request: Any) -> EchoReply:
        seen.extend(request.custom_metadata)
        return echo_reply("end")

    async with connect_pair(
        CallbackServicer(Echo=end), server_limits=Limits(max_header_list_size=2048)
    ) as to:

        async def pass_on(message: EchoRequest) -> EchoReply:
            return await to.stub.Echo(echo_request("on"), metadata=[("own", "kept")])

        async with connect_raw_peer(CallbackServicer(Echo=pass_on)) as peer:
            await peer.send(call((b"baggage", b"a=" + b"b" * 5000)))
            assert (b"grpc-status", b"0") in decode_sent_headers(peer)
        assert seen == [("own", "kept")]
        with pytest.raises(purerpc.ResourceExhaustedError, match="metadata"):
            await to.stub.Echo(echo_request("on"), metadata=[("own", "v" * 5000)])


async def test_what_a_server_sent_may_be_sent_on() -> None:
    """A client that gives the metadata of a reply to its next call, or a handler to its caller."""
    odd = ReceivedText("caf\xe9\t")

    async def echo(message: EchoRequest, request: Any) -> EchoReply:
        request.trailing_metadata = [("x-odd", odd), *request.custom_metadata]
        return echo_reply("hi")

    async with connect_pair(CallbackServicer(Echo=echo)) as pair:
        _, outcome = await pair.stub.Echo.with_call(echo_request("hi"))
        assert outcome.trailing_metadata == (("x-odd", "caf\xe9"),)
        _, outcome = await pair.stub.Echo.with_call(
            echo_request("hi"), metadata=outcome.trailing_metadata
        )
        assert outcome.trailing_metadata == (("x-odd", "caf\xe9"),) * 2


@pytest.mark.parametrize(
    ("field", "reason"),
    [
        ((b"x-bin", b"*"), "'x-bin'"),
        ((b"grpc-trace-bin", b"A"), "'grpc-trace-bin'"),
        ((b"grpc-timeout", b"soon"), "grpc-timeout"),
    ],
)
async def test_a_request_that_grpc_cannot_read_fails_with_a_status(
    field: tuple[bytes, bytes], reason: str
) -> None:
    async def echo(message: EchoRequest) -> EchoReply:
        return echo_reply("hi")

    async with connect_raw_peer(CallbackServicer(Echo=echo)) as peer:
        await peer.send(call(field))
        fields = dict(decode_sent_headers(peer))
        assert fields[b"grpc-status"] == b"13"
        assert reason in fields[b"grpc-message"].decode()
        assert not peer.server.closed
        peer.assert_nothing_left()


@pytest.mark.parametrize(
    ("trailers", "text"),
    [
        ([(b"grpc-message", b"cannot open file: ")], "cannot open file: "),
        ([(b"grpc-message", b"\xff\xfe 100% %zz ")], "\ufffd\ufffd 100% %zz "),
        ([(b"grpc-message", "né".encode())], "né"),
        ([(b"grpc-message", b"no"), (b"grpc-status-details-bin", b"*")], "no"),
        ([(b"grpc-message", b"no"), (b"x-bin", b"A"), (b"x", b" v\t")], "no"),
    ],
)
@pytest.mark.parametrize("after_head", [False, True])
async def test_a_caller_gets_the_status_whatever_comes_with_it(
    trailers: list[tuple[bytes, bytes]], text: str, after_head: bool
) -> None:
    head = [(b":status", b"200"), (b"content-type", b"application/grpc")]
    status = [(b"grpc-status", b"5 "), *trailers]

    async def answer(pair: Any) -> None:
        """Answer in the place of the server, whose handlers never run."""
        blocks = [head, status] if after_head else [head + status]
        for number, block in enumerate(blocks, 1):
            pair.server.send_headers(1, encoder.encode(block), end_stream=number == len(blocks))
        pair.server.flush()

    async def never(message: EchoRequest) -> EchoReply:
        await answer(pair)
        await trio.sleep_forever()
        raise AssertionError

    async with connect_pair(CallbackServicer(Echo=never)) as pair:
        with pytest.raises(purerpc.NotFoundError) as caught:
            await pair.stub.Echo(echo_request("hi"))
        assert caught.value.status.status_message == text
        assert caught.value.status_details == b""
