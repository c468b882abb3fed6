"""Calls that are answered before the client has ended its side (RFC 9113 §8.1)."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator
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
from meshtrio.http2.limits import Limits
from meshtrio.rpc.client_connection import ClientConnection
from meshtrio.rpc.timeouts import Timeouts
from meshtrio.transport.transport import Transport
from meshtrio.util.concurrency import open_collapsing_nursery
from tests.support.connection_pairs import (
    CallbackServicer,
    RawPeer,
    connect_raw_peer,
    echo_reply,
    echo_request,
    make_stub,
    run_timeouts_after,
)
from tests.support.raw_calls import request_headers_frame

JOIN, UNKNOWN = b"/echo.v1.EchoService/Join", b"/no.Such/Method"
MESSAGE = frame_message(EchoRequest(message="hi").SerializeToString())


async def join(messages: AsyncIterator[EchoRequest]) -> EchoReply:
    """Answer without having read anything."""
    return echo_reply("enough")


async def echo(message: EchoRequest) -> EchoReply:
    return echo_reply(message.message)


EARLY = CallbackServicer(Join=join, Echo=echo)


def data(stream_id: int, payload: bytes = b"", *, end: bool = False) -> bytes:
    flags = frames.END_STREAM if end else 0
    return frames.encode_frame(FrameType.DATA, flags, stream_id, payload)


def resets(peer: RawPeer) -> list[tuple[int, int]]:
    """Streams that the server has reset since the last time, with the codes."""
    return [
        (stream_id, int.from_bytes(payload, "big"))
        for kind, _, stream_id, payload in peer.read_frames()
        if kind == FrameType.RST_STREAM
    ]


def not_grpc(stream_id: int) -> bytes:
    fields = [(b":method", b"POST"), (b":scheme", b"http"), (b":path", b"/")]
    return frames.encode_header_block(
        stream_id, encoder.encode(fields), end_stream=False, max_frame_size=16_384
    )


@pytest.mark.parametrize("path", [JOIN, UNKNOWN])
@pytest.mark.parametrize("rest", [[], [MESSAGE], [MESSAGE] * 3])
async def test_a_client_may_end_its_side_after_the_answer(path: bytes, rest: list[bytes]) -> None:
    async with connect_raw_peer(EARLY) as peer:
        await peer.send(request_headers_frame(1, path=path))
        for message in rest:
            await peer.send(data(1, message))
        await peer.send(data(1, end=True))
        answers = await run_timeouts_after(peer, 10)
        assert FrameType.RST_STREAM not in {kind for kind, *_ in answers}
        peer.assert_nothing_left()


@pytest.mark.parametrize("path", [JOIN, UNKNOWN])
async def test_a_client_that_does_not_is_reset_after_a_moment(path: bytes) -> None:
    async with connect_raw_peer(EARLY) as peer:
        await peer.send(request_headers_frame(1, path=path))
        assert peer.server.streams == {}, "the handler's place is free at once"
        await run_timeouts_after(peer, 1)
        assert peer.server._engine.open_stream_count == 1
        answers = await run_timeouts_after(peer, 3)
        assert (FrameType.RST_STREAM, 0, 1, bytes(4)) in answers
        peer.assert_nothing_left()
        # What was on its way still does no harm.
        await peer.send(data(1, MESSAGE) + data(1, end=True))
        assert not peer.server.closed


async def test_the_moment_can_be_set() -> None:
    async with connect_raw_peer(EARLY, timeouts=Timeouts(half_close=30)) as peer:
        await peer.send(request_headers_frame(1, path=JOIN))
        await run_timeouts_after(peer, 29)
        assert peer.server._engine.open_stream_count == 1
        await run_timeouts_after(peer, 31)
        peer.assert_nothing_left()


async def test_no_more_than_a_number_of_answered_streams_is_kept() -> None:
    async with connect_raw_peer(EARLY) as peer:
        await peer.send(b"".join(request_headers_frame(n, path=UNKNOWN) for n in range(1, 800, 2)))
        assert peer.server._engine.open_stream_count == 256
        found = resets(peer)
        assert [stream_id for stream_id, _ in found] == list(range(1, 2 * (400 - 256), 2))
        assert {code for _, code in found} == {ErrorCode.NO_ERROR}
        # Those that the client has ended make room.
        await peer.send(b"".join(data(n, end=True) for n in range(401, 800, 2)))
        await peer.send(
            b"".join(request_headers_frame(n, path=UNKNOWN) for n in range(801, 1200, 2))
        )
        assert resets(peer) == []


async def test_answered_streams_leave_room_for_calls() -> None:
    async with connect_raw_peer(EARLY, limits=Limits(max_concurrent_streams=4)) as peer:
        await peer.send(b"".join(request_headers_frame(n, path=UNKNOWN) for n in range(1, 20, 2)))
        assert peer.server._engine.open_stream_count == 2
        peer.read_frames()
        await peer.send(request_headers_frame(21) + data(21, MESSAGE, end=True))
        assert not resets(peer)


async def test_resets_of_answered_calls_are_no_attack() -> None:
    """gRPC clients that have their answer reset a stream which they have not ended."""
    limits = Limits(reset_burst=10, reset_rate=0)
    async with connect_raw_peer(EARLY, limits=limits) as peer:
        for stream_id in range(1, 100, 2):
            await peer.send(request_headers_frame(stream_id, path=JOIN))
            await peer.send(frames.rst_stream(stream_id, ErrorCode.CANCEL))
        assert not peer.server.closed
        peer.assert_nothing_left()


async def test_what_is_not_grpc_is_not_reset_at_once_either() -> None:
    async with connect_raw_peer(EARLY) as peer:
        await peer.send(not_grpc(1) + data(1, b"x"))
        await peer.send(data(1, end=True))
        assert resets(peer) == []
        peer.assert_nothing_left()


async def test_a_drain_does_not_wait_for_clients_that_have_their_answer() -> None:
    async with connect_raw_peer(EARLY) as peer:
        await peer.send(request_headers_frame(1, path=JOIN))
        with trio.fail_after(3):
            async with open_collapsing_nursery() as nursery:
                nursery.start_soon(peer.server.drain)
                await peer.send(b"")
                for kind, _, _, payload in peer.read_frames():
                    if kind == FrameType.PING:
                        await peer.send(frames.ping(payload, ack=True))
                assert peer.server.closed


# -- the client ----------------------------------------------------------------------------------

HEAD = encoder.encode([(b":status", b"200"), (b"content-type", b"application/grpc")])
OK = encoder.encode([(b"grpc-status", b"0")])
NOT_FOUND = encoder.encode([(b"grpc-status", b"5"), (b"grpc-message", b"none")])
REPLY = frame_message(EchoReply(message="hi").SerializeToString())


def block(payload: bytes, *, end: bool = False) -> bytes:
    return frames.encode_header_block(1, payload, end_stream=end, max_frame_size=16_384)


GOOD = block(HEAD) + data(1, REPLY) + block(OK, end=True)
FAILED = block(HEAD + NOT_FOUND, end=True)


class RawServer:
    """Sends a fixed response to any request."""

    def __init__(self, sock: trio.SocketStream) -> None:
        self._sock = sock
        self._reader = FrameReader(
            expect_preface=True, max_frame_size=2**24 - 1, max_block_size=2**20
        )

    async def send(self, *parts: bytes) -> None:
        """Send parts one by one, each once the client has taken the one before."""
        for part in parts:
            await self._sock.send_all(part)
            await trio.testing.wait_all_tasks_blocked(0.005)

    async def asked(self) -> None:
        """Wait for the head of a request."""
        while True:
            for kind, _, stream_id, _ in self._reader.feed(await self._sock.receive_some()):
                if kind == FrameType.HEADERS and stream_id:
                    return


async def call_with_response(call: Any, *parts: bytes) -> Any:
    """Return the result of a call that a raw server answers with these frames."""
    ours, theirs = socket.socketpair()
    client = ClientConnection(Transport(ours))
    sock = trio.SocketStream(trio.socket.from_stdlib_socket(theirs))
    server = RawServer(sock)

    async def answer() -> None:
        await server.send(frames.settings({}))
        await server.asked()
        await server.send(*parts)

    async with sock, open_collapsing_nursery() as nursery:
        await nursery.start(client.run)
        nursery.start_soon(answer)
        try:
            with trio.fail_after(5):
                return await call(make_stub(client, EchoServiceStub))
        finally:
            await trio.testing.wait_all_tasks_blocked(0.005)
            assert not client.closed
            assert client.streams == {}
            nursery.cancel_scope.cancel()


async def call_echo(stub: Any) -> Any:
    return (await stub.Echo(echo_request("hi"))).message


async def call_join(stub: Any) -> Any:
    return (await stub.Join(endless_requests())).message


async def call_chat(stub: Any) -> Any:
    return [answer.message async for answer in stub.Chat(endless_requests())]


async def endless_requests() -> AsyncIterator[EchoRequest]:
    yield echo_request("hi")
    await trio.sleep_forever()


CALLS = [call_echo, call_join, call_chat]


def split_response(answer: bytes, *, whole: bool) -> list[bytes]:
    return [answer] if whole else [answer[i : i + 1] for i in range(len(answer))]


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("code", [ErrorCode.NO_ERROR, ErrorCode.CANCEL])
@pytest.mark.parametrize("whole", [True, False])
async def test_a_reset_behind_the_answer_is_none(call: Any, code: ErrorCode, whole: bool) -> None:
    reset = frames.rst_stream(1, code)
    found = await call_with_response(call, *split_response(GOOD + reset, whole=whole))
    assert found in ("hi", ["hi"])
    with pytest.raises(purerpc.NotFoundError, match="none"):
        await call_with_response(call, *split_response(FAILED + reset, whole=whole))


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize(
    ("before", "code", "error"),
    [
        (b"", ErrorCode.NO_ERROR, purerpc.InternalError),
        (block(HEAD), ErrorCode.NO_ERROR, purerpc.InternalError),
        (block(HEAD) + data(1, REPLY), ErrorCode.NO_ERROR, purerpc.InternalError),
        (block(HEAD) + data(1, REPLY), ErrorCode.CANCEL, purerpc.CancelledError),
        # It has been processed, so it is not made again.
        (block(HEAD), ErrorCode.REFUSED_STREAM, purerpc.UnavailableError),
        (block(HEAD) + data(1, REPLY), ErrorCode.REFUSED_STREAM, purerpc.UnavailableError),
    ],
)
async def test_a_reset_before_the_status_is_one(
    call: Any, before: bytes, code: ErrorCode, error: type[Exception]
) -> None:
    with pytest.raises(error):
        await call_with_response(call, before + frames.rst_stream(1, code))
