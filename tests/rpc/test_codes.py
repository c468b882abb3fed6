"""Status codes that the library generates, by gRPC's doc/statuscodes.md."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import purerpc
import pytest
import trio
from echo.v1.echo_pb2 import EchoReply, EchoRequest, RepeatRequest

from meshtrio.grpc.framing import frame_message
from meshtrio.http2 import frames
from meshtrio.http2.frames import FrameType
from meshtrio.http2.hpack import encoder
from meshtrio.http2.limits import Limits
from tests.support.connection_pairs import (
    CallbackServicer,
    ConnectionPair,
    RawPeer,
    connect_pair,
    connect_raw_peer,
    echo_reply,
    echo_request,
    echo_requests,
    run_timeouts_after,
)
from tests.support.raw_calls import decode_sent_headers, request_headers_frame

INTERNAL, UNIMPLEMENTED, RESOURCE_EXHAUSTED = b"13", b"12", b"8"
MESSAGE = frame_message(EchoRequest(message="hi").SerializeToString())
UNARY, STREAMED = b"/echo.v1.EchoService/Echo", b"/echo.v1.EchoService/Repeat"


def data(stream_id: int, payload: bytes = b"", *, end: bool = False) -> bytes:
    flags = frames.END_STREAM if end else 0
    return frames.encode_frame(FrameType.DATA, flags, stream_id, payload)


async def echo(message: EchoRequest) -> EchoReply:
    return echo_reply(message.message)


async def repeat(message: RepeatRequest) -> AsyncIterator[EchoReply]:
    yield echo_reply(message.message)


BOTH = CallbackServicer(Echo=echo, Repeat=repeat)


# -- the server ----------------------------------------------------------------------------------


@pytest.mark.parametrize("path", [UNARY, STREAMED])
@pytest.mark.parametrize(
    ("rest", "code"),
    [
        pytest.param([data(1, end=True)], UNIMPLEMENTED, id="no request"),
        pytest.param([data(1, MESSAGE * 2, end=True)], UNIMPLEMENTED, id="two in one frame"),
        pytest.param([data(1, MESSAGE), data(1, MESSAGE)], UNIMPLEMENTED, id="two in two frames"),
        pytest.param([data(1, MESSAGE + b"\0")], UNIMPLEMENTED, id="the beginning of a second"),
        pytest.param([data(1, frame_message(b"\xff"), end=True)], INTERNAL, id="no protobuf"),
        pytest.param(
            [data(1, frame_message(b"x", compressed=True), end=True)], INTERNAL, id="compressed"
        ),
        pytest.param([data(1, MESSAGE[:-1], end=True)], INTERNAL, id="half a request"),
    ],
)
async def test_requests_that_are_wrong(path: bytes, rest: list[bytes], code: bytes) -> None:
    async with connect_raw_peer(BOTH) as peer:
        await peer.send(request_headers_frame(1, path=path) + rest[0])
        for part in rest[1:]:
            await peer.send(part)
        assert dict(decode_sent_headers(peer))[b"grpc-status"] == code
        assert not peer.server.closed


async def test_a_second_request_behind_one_that_fills_the_window() -> None:
    """The client may send no more by then, unless it is allowed to."""
    limits = Limits(stream_window=65_535)
    large = frame_message(EchoRequest(message="x" * 200_000).SerializeToString())
    async with connect_raw_peer(BOTH, limits=limits) as peer:
        await peer.send(request_headers_frame(1, path=UNARY))
        sent, room = 0, 65_535
        while sent < len(large):
            part = large[sent : sent + min(room, 16_000)]
            sent, room = sent + len(part), room - len(part)
            await peer.send(data(1, part))
            room += opened_window(peer)
        assert room > len(MESSAGE)
        await peer.send(data(1, MESSAGE))
        assert dict(decode_sent_headers(peer))[b"grpc-status"] == UNIMPLEMENTED


def opened_window(peer: RawPeer) -> int:
    return sum(
        int.from_bytes(payload, "big")
        for kind, _, stream_id, payload in peer.read_frames()
        if kind == FrameType.WINDOW_UPDATE and stream_id == 1
    )


async def test_compression_that_is_not_supported() -> None:
    async with connect_raw_peer(BOTH) as peer:
        await peer.send(
            request_headers_frame(1, (b"grpc-encoding", b"br")) + data(1, MESSAGE, end=True)
        )
        fields = dict(decode_sent_headers(peer))
        assert fields[b"grpc-status"] == UNIMPLEMENTED
        assert fields[b"grpc-accept-encoding"] == b"identity,gzip"


async def test_a_message_that_cannot_be_decompressed() -> None:
    async with connect_raw_peer(BOTH) as peer:
        body = frame_message(b"no gzip", compressed=True)
        await peer.send(
            request_headers_frame(1, (b"grpc-encoding", b"gzip")) + data(1, body, end=True)
        )
        assert dict(decode_sent_headers(peer))[b"grpc-status"] == INTERNAL


@pytest.mark.parametrize("path", [UNARY, STREAMED])
async def test_a_client_that_never_ends_its_side_is_not_waited_for_for_ever(path: bytes) -> None:
    async with connect_raw_peer(BOTH) as peer:
        await peer.send(request_headers_frame(1, path=path) + data(1, MESSAGE))
        await run_timeouts_after(peer, 59)
        assert peer.server.streams != {}
        await run_timeouts_after(peer, 61)
        assert peer.server.streams == {}
    async with connect_raw_peer(BOTH) as peer:
        deadline = (b"grpc-timeout", b"50m")
        await peer.send(request_headers_frame(1, deadline, path=path) + data(1, MESSAGE))
        fields: dict[bytes, bytes] = {}
        with trio.fail_after(5):
            while b"grpc-status" not in fields:
                await trio.lowlevel.wait_readable(peer.sock)
                fields |= dict(decode_sent_headers(peer))
        assert fields[b"grpc-status"] == b"4"


@pytest.mark.parametrize(
    ("character", "count"),
    [("x", 10_000_000), ("é", 10_000_000), ("\n", 5000), ("\ud800", 5000)],
    ids=["plain", "encoded", "control", "surrogate"],
)
async def test_a_long_status_message_is_cut_between_characters(character: str, count: int) -> None:
    message = character * count

    async def fail(_: EchoRequest) -> EchoReply:
        raise purerpc.NotFoundError(message)

    async with connect_pair(CallbackServicer(Echo=fail)) as pair:
        with pytest.raises(purerpc.NotFoundError) as caught:
            await pair.stub.Echo(echo_request("hi"))
        text = caught.value.status.status_message
        assert text[-1] == "…"
        assert text[:-1] == message.replace("\ud800", "?")[: len(text) - 1]
        assert len(text) > 300


async def test_a_failure_with_status_ok_is_unknown(caplog: pytest.LogCaptureFixture) -> None:
    async def fail(_: EchoRequest) -> EchoReply:
        raise purerpc.RpcFailedError(purerpc.Status(purerpc.StatusCode.OK, "fine"))

    async with connect_pair(CallbackServicer(Echo=fail)) as pair:
        with pytest.raises(purerpc.UnknownError):
            await pair.stub.Echo(echo_request("hi"))
    assert "/echo.v1.EchoService/Echo: the handler raised" in caplog.text


# -- the client ----------------------------------------------------------------------------------

HEAD = encoder.encode([(b":status", b"200"), (b"content-type", b"application/grpc")])
GZIP = HEAD + encoder.encode([(b"grpc-encoding", b"gzip")])
BROTLI = HEAD + encoder.encode([(b"grpc-encoding", b"br")])
OK = encoder.encode([(b"grpc-status", b"0")])
REPLY = frame_message(EchoReply(message="hi").SerializeToString())


async def call_echo(pair: ConnectionPair) -> Any:
    return await pair.stub.Echo(echo_request("hi"))


async def call_join(pair: ConnectionPair) -> Any:
    return await pair.stub.Join(echo_requests("hi"))


@pytest.mark.parametrize("call", [call_echo, call_join])
@pytest.mark.parametrize(
    ("head", "body", "trailers", "error"),
    [
        pytest.param(HEAD, b"", OK, purerpc.UnimplementedError, id="no reply"),
        pytest.param(HEAD, REPLY * 2, OK, purerpc.UnimplementedError, id="two replies"),
        pytest.param(HEAD, frame_message(b"\xff"), OK, purerpc.InternalError, id="no protobuf"),
        pytest.param(HEAD, REPLY[:-1], OK, purerpc.InternalError, id="half a reply"),
        pytest.param(
            HEAD, frame_message(b"x", compressed=True), OK, purerpc.InternalError, id="compressed"
        ),
        pytest.param(
            GZIP, frame_message(b"x", compressed=True), OK, purerpc.InternalError, id="no gzip"
        ),
        pytest.param(BROTLI, REPLY, OK, purerpc.InternalError, id="another compression"),
        pytest.param(HEAD, REPLY, b"", purerpc.UnknownError, id="no status"),
    ],
)
async def test_answers_that_are_wrong(
    call: Callable[[ConnectionPair], Any],
    head: bytes,
    body: bytes,
    trailers: bytes,
    error: type[Exception],
) -> None:
    async with serve_response(head, body, trailers) as pair:
        with pytest.raises(error):
            await call(pair)
        await pair.wait_until_idle()
        assert pair.client.streams == {}


@asynccontextmanager
async def serve_response(
    head: bytes, body: bytes, trailers: bytes
) -> AsyncIterator[ConnectionPair]:
    """A pair whose server answers so, and whose handlers never end."""

    async def answer(*_: object) -> EchoReply:
        server = pair.server
        server.send_headers(1, head)
        server.send_data(1, body, end_stream=not trailers)
        if trailers:
            server.send_headers(1, trailers, end_stream=True)
        pair.server.flush()
        await trio.sleep_forever()
        raise AssertionError

    async with connect_pair(CallbackServicer(Echo=answer, Join=answer)) as pair:
        yield pair
