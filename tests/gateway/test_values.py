"""Metadata and statuses that gRPC does not specify, on their way through a gateway."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import purerpc
import pytest
import trio
from echo.v1.echo_grpc import EchoServiceStub
from echo.v1.echo_pb2 import EchoReply, EchoRequest

from meshtrio.grpc.framing import frame_message
from meshtrio.http2 import frames
from meshtrio.http2.errors import ErrorCode
from meshtrio.http2.frame_reader import FrameReader
from meshtrio.http2.frames import FrameType
from meshtrio.http2.hpack import encoder
from meshtrio.http2.hpack.decoder import HeaderDecoder
from tests.support.connection_pairs import CallbackServicer, echo_reply, echo_request
from tests.support.gateways import GatewayHarness, run_gateway, server_with_reflection
from tests.support.raw_calls import connect_raw_socket, encode_request_headers, send_all

HEAD = [(b":status", b"200"), (b"content-type", b"application/grpc")]
REPLY = frame_message(EchoReply(message="hi").SerializeToString())


def headers(stream_id: int, fields: list[tuple[bytes, bytes]], *, end: bool) -> bytes:
    return frames.encode_header_block(
        stream_id, encoder.encode(fields), end_stream=end, max_frame_size=16_384
    )


@asynccontextmanager
async def serve_raw_answer(folder: Path, answer: Any) -> AsyncIterator[Path]:
    """Serve a plugin that answers each call with the bytes `answer(stream_id)`."""
    path = folder / "raw.sock"
    listener = trio.socket.socket(trio.socket.AF_UNIX)
    await listener.bind(str(path))
    listener.listen()

    async def serve(stream: trio.SocketStream) -> None:
        reader = FrameReader(expect_preface=True, max_frame_size=2**24 - 1, max_block_size=2**20)
        await stream.send_all(frames.settings({}))
        while data := await stream.receive_some():
            for kind, _, stream_id, _ in reader.feed(data):
                if kind == FrameType.HEADERS:
                    await stream.send_all(answer(stream_id))

    async with trio.open_nursery() as nursery:
        serving = trio.SocketListener(listener)
        nursery.start_soon(trio.serve_listeners, serve, [serving])
        yield path
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("after_head", [False, True])
@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ([(b"grpc-message", b"cannot open file: ")], "cannot open file: "),
        ([(b"grpc-message", b"\t\xff 100% %zz")], "\t\ufffd 100% %zz"),
        ([(b"grpc-message", "né".encode())], "né"),
        # It would be nine times as long if it were encoded again.
        pytest.param([(b"grpc-message", b"\xff" * 5000)], "\ufffd" * 5000, id="long"),
        ([(b"grpc-message", b"no"), (b"grpc-status-details-bin", b"*")], "no"),
        ([(b"grpc-message", b"no"), (b"x-bin", b"A"), (b"x-odd", b" \xe9\tv ")], "no"),
    ],
)
async def test_a_status_arrives_whatever_comes_with_it(
    fields: list[tuple[bytes, bytes]], text: str, after_head: bool, short_dir: Path
) -> None:
    status = [(b"grpc-status", b" 5"), *fields]

    def answer(stream_id: int) -> bytes:
        if after_head:
            return headers(stream_id, HEAD, end=False) + headers(stream_id, status, end=True)
        return headers(stream_id, HEAD + status, end=True)

    async with run_gateway(short_dir, {"raw": ["echo.v1.EchoService"]}) as behind:
        async with serve_raw_answer(short_dir, answer) as path:
            with behind.register_endpoint("raw", path):
                stub = behind.channel.stub(EchoServiceStub)
                with trio.fail_after(5), pytest.raises(purerpc.NotFoundError) as caught:
                    await stub.Echo(echo_request("hi"))
    assert caught.value.status.status_message == text
    kept = {"x-odd": "\xe9\tv"} if any(name == b"x-odd" for name, _ in fields) else {}
    assert dict(caught.value.trailing_metadata) == kept


@pytest.mark.parametrize("code", [ErrorCode.NO_ERROR, ErrorCode.CANCEL])
async def test_a_plugin_may_reset_what_it_has_answered(code: ErrorCode, short_dir: Path) -> None:
    def answer(stream_id: int) -> bytes:
        return (
            headers(stream_id, HEAD, end=False)
            + frames.encode_frame(FrameType.DATA, 0, stream_id, REPLY)
            + headers(stream_id, [(b"grpc-status", b"0")], end=True)
            + frames.rst_stream(stream_id, code)
        )

    async def requests() -> AsyncIterator[EchoRequest]:
        yield echo_request("one")
        await trio.sleep_forever()

    async with run_gateway(short_dir, {"raw": ["echo.v1.EchoService"]}) as behind:
        async with serve_raw_answer(short_dir, answer) as path:
            with behind.register_endpoint("raw", path), trio.fail_after(5):
                stub = behind.channel.stub(EchoServiceStub)
                assert (await stub.Echo(echo_request("hi"))).message == "hi"
                assert (await stub.Join(requests())).message == "hi"
                await behind.assert_nothing_left()


ODD = (
    (b"baggage", b"who=caf\xc3\xa9"),
    (b"tracestate", b"a=1,\tb=2"),
    (b"x-spaces", b" v \t"),
    (b"x!odd", b"\x01\xff"),
    (b"x-bin", b"AP8="),
)


async def echo(message: EchoRequest, request: Any) -> EchoReply:
    request.initial_metadata = request.custom_metadata
    request.trailing_metadata = request.custom_metadata
    return echo_reply(message.message)


async def read_answer(
    behind: GatewayHarness, *data: bytes
) -> tuple[dict[bytes, bytes], list[tuple[int, int]]]:
    """Return the headers that come on stream 1 until it ends, and the resets until then."""
    decoder, fields, resets = HeaderDecoder(2**20), {}, []
    reader = FrameReader(expect_preface=False, max_frame_size=2**24 - 1, max_block_size=2**20)
    async with connect_raw_socket(behind) as sock:
        for part in data:
            await send_all(sock, part)
        with trio.move_on_after(5):
            while b"grpc-status" not in fields:
                for kind, _, stream_id, payload in reader.feed(await sock.recv(100_000)):
                    if kind == FrameType.HEADERS:
                        fields |= dict(decoder.decode(payload, tuple))
                    elif kind == FrameType.RST_STREAM:
                        resets.append((stream_id, payload[-1]))
    return fields, resets


def request_headers(*more: tuple[bytes, bytes]) -> bytes:
    return frames.encode_header_block(
        1, encode_request_headers("Echo", *more), end_stream=False, max_frame_size=16_384
    )


BODY = frame_message(EchoRequest(message="hi").SerializeToString())


async def test_odd_metadata_goes_there_and_back(short_dir: Path) -> None:
    async with run_gateway(
        short_dir, a=server_with_reflection(CallbackServicer(Echo=echo))
    ) as behind:
        body = frames.encode_frame(FrameType.DATA, frames.END_STREAM, 1, BODY)
        fields, _ = await read_answer(behind, request_headers(*ODD) + body)
    assert fields[b"grpc-status"] == b"0"
    for name, value in ODD:
        assert fields[name] == value.strip(b" \t").rstrip(b"=")


async def test_a_request_that_cannot_be_read_gets_a_status(short_dir: Path) -> None:
    async with run_gateway(
        short_dir, a=server_with_reflection(CallbackServicer(Echo=echo))
    ) as behind:
        body = frames.encode_frame(FrameType.DATA, frames.END_STREAM, 1, BODY)
        fields, resets = await read_answer(behind, request_headers((b"x-bin", b"*")) + body)
        assert fields[b"grpc-status"] == b"13"
        assert b"x-bin" in fields[b"grpc-message"]
        assert resets == []


async def test_an_end_by_itself_comes_after_the_answer_or_before(short_dir: Path) -> None:
    """httpx sends END_STREAM in a frame of its own."""
    data = frames.encode_frame(FrameType.DATA, 0, 1, BODY)
    end = frames.encode_frame(FrameType.DATA, frames.END_STREAM, 1, b"")
    unknown = request_headers().replace(b"Echo", b"None")
    async with run_gateway(
        short_dir, a=server_with_reflection(CallbackServicer(Echo=echo))
    ) as behind:
        fields, resets = await read_answer(behind, request_headers(), data, end)
        assert (fields[b"grpc-status"], resets) == (b"0", [])
        fields, resets = await read_answer(behind, unknown, data, end)
        assert (fields[b"grpc-status"], resets) == (b"12", [])
        await behind.assert_nothing_left()


async def test_long_messages_of_a_plugin_and_of_the_gateway(short_dir: Path) -> None:
    async def fail(message: EchoRequest) -> EchoReply:
        raise purerpc.NotFoundError("é" * 100_000)

    async with run_gateway(
        short_dir, a=server_with_reflection(CallbackServicer(Echo=fail))
    ) as behind:
        stub = behind.channel.stub(EchoServiceStub)
        with pytest.raises(purerpc.NotFoundError) as caught:
            await stub.Echo(echo_request("hi"))
        text = caught.value.status.status_message
        assert text == "é" * (len(text) - 1) + "…"
        assert len(text) > 600
