"""Attacks over a real socket: the code that ends them, bounded memory, and others unharmed."""

from __future__ import annotations

import tracemalloc
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
import trio
from echo.v1.echo_pb2 import EchoReply

from meshtrio.http2 import frames
from meshtrio.http2.errors import ErrorCode
from meshtrio.http2.frames import FrameType
from meshtrio.http2.hpack import encoder
from meshtrio.rpc.timeouts import Timeouts
from tests.support.connection_pairs import (
    CallbackServicer,
    RawPeer,
    connect_pair,
    connect_raw_peer,
    echo_reply,
    echo_request,
    run_timeouts_after,
)
from tests.support.handlers import ECHO_SERVICER, CancellationRecorder
from tests.support.raw_calls import request_headers_frame

CALM = ErrorCode.ENHANCE_YOUR_CALM
MEMORY_BOUND = 4_000_000


def repeat_frame(frame: bytes, count: int = 200_000) -> Callable[[], bytes]:
    return lambda: frame * count


def rapid_reset_frames() -> bytes:
    return b"".join(request_headers_frame(i) + frames.rst_stream(i, 8) for i in range(1, 20_000, 2))


def continuation_flood() -> bytes:
    begun = frames.encode_frame(FrameType.HEADERS, 0, 1, b"")
    return begun + frames.encode_frame(FrameType.CONTINUATION, 0, 1, b"") * 100_000


def header_bomb() -> bytes:
    """One large entry in the table, named again and again by one byte each (RFC 7541 §7.3)."""
    entry = b"\x40" + encoder.encode_integer(1, 7, 0) + b"x"
    entry += encoder.encode_integer(4000, 7, 0) + b"v" * 4000
    block = entry + b"\xbe" * 10_000
    return frames.encode_header_block(1, block, end_stream=False, max_frame_size=16_384)


def window_overflow() -> bytes:
    return frames.window_update(0, 2**31 - 1) * 2


def window_overrun() -> bytes:
    return (
        request_headers_frame(1) + frames.encode_frame(FrameType.DATA, 0, 1, bytes(16_000)) * 1000
    )


ATTACKS: dict[str, tuple[Callable[[], bytes], ErrorCode]] = {
    "PING": (repeat_frame(frames.ping(b"12345678", ack=False)), CALM),
    "SETTINGS": (repeat_frame(frames.settings({4: 1000})), CALM),
    "empty DATA": (
        lambda: request_headers_frame(1) + frames.encode_frame(FrameType.DATA, 0, 1) * 200_000,
        CALM,
    ),
    "rapid reset": (rapid_reset_frames, CALM),
    "CONTINUATION": (continuation_flood, CALM),
    "HPACK bomb": (header_bomb, CALM),
    "window overflow": (window_overflow, ErrorCode.FLOW_CONTROL_ERROR),
    "oversized frame": (
        repeat_frame(frames.encode_frame(0, 0, 1, bytes(1_000_000)), 1),
        ErrorCode.FRAME_SIZE_ERROR,
    ),
}


async def read_until_closed(peer: RawPeer, data: bytes) -> list[Any]:
    """Send an attack as far as it is taken, and give all the answers."""
    received: list[Any] = []
    view = memoryview(data)
    with trio.fail_after(20):
        while not peer.server.closed:
            try:
                view = view[peer.sock.send(view[:500_000]) :]
            except BlockingIOError:
                await trio.lowlevel.checkpoint()
            except OSError:
                break
            received += peer.read_frames()
            await trio.lowlevel.checkpoint()
            if not view:
                await trio.testing.wait_all_tasks_blocked(0.01)
                break
    await trio.testing.wait_all_tasks_blocked(0.01)
    return received + peer.read_frames()


@pytest.mark.parametrize("attack", ATTACKS)
async def test_an_attack_ends_its_connection_only(attack: str) -> None:
    make, code = ATTACKS[attack]
    data = make()
    async with connect_pair(ECHO_SERVICER) as others, connect_raw_peer(ECHO_SERVICER) as peer:
        tracemalloc.start()
        before = tracemalloc.get_traced_memory()[0]
        answers = await read_until_closed(peer, data)
        peak = tracemalloc.get_traced_memory()[1] - before
        tracemalloc.stop()
        goaways = [payload for type_, _, _, payload in answers if type_ == FrameType.GOAWAY]
        assert [int.from_bytes(payload[4:8], "big") for payload in goaways] == [code]
        assert peer.server.closed
        assert peak < MEMORY_BOUND
        peer.assert_nothing_left()
        assert (await others.stub.Echo(echo_request("unharmed"))).message == "unharmed"


async def test_data_beyond_the_window_ends_its_stream_only() -> None:
    async def never_reads(messages: AsyncIterator[Any]) -> EchoReply:
        await trio.sleep_forever()
        return echo_reply("")

    async with connect_raw_peer(CallbackServicer(Join=never_reads)) as peer:
        head = request_headers_frame(1, path=b"/echo.v1.EchoService/Join")
        message = frames.encode_frame(FrameType.DATA, 0, 1, b"\0\0\0\0\0" * 3000)
        answers = await read_until_closed(peer, head + message * 40)
        resets = [payload for type_, _, _, payload in answers if type_ == FrameType.RST_STREAM]
        assert [int.from_bytes(payload, "big") for payload in resets] == [
            ErrorCode.FLOW_CONTROL_ERROR
        ]
        assert not peer.server.closed


# -- slow ones -----------------------------------------------------------------------------------

SOON = Timeouts(handshake=10, frame=20, message=60)


async def test_a_preface_that_never_ends() -> None:
    async with connect_raw_peer(ECHO_SERVICER, preface=frames.PREFACE[:10]) as peer:
        await run_timeouts_after(peer, 9)
        assert not peer.server.closed
        answers = await run_timeouts_after(peer, 11)
        assert answers[-1][0] == FrameType.GOAWAY
        assert peer.server.closed


@pytest.mark.parametrize(
    "begun",
    [
        frames.encode_frame(FrameType.HEADERS, 0, 1, b"\x83"),
        request_headers_frame(1)[:-1],
        request_headers_frame(1)
        + frames.encode_frame_header(1000, FrameType.DATA, 0, 1)
        + b"\0\0\0",
    ],
    ids=["header block", "HEADERS", "DATA"],
)
async def test_a_frame_that_never_ends(begun: bytes) -> None:
    async with connect_raw_peer(ECHO_SERVICER) as peer:
        await peer.send(begun)
        await run_timeouts_after(peer, 19)
        assert not peer.server.closed
        answers = await run_timeouts_after(peer, 21)
        assert int.from_bytes(answers[-1][3][4:8], "big") == CALM
        assert peer.server.closed
        peer.assert_nothing_left()


async def test_a_message_that_is_dribbled() -> None:
    async with connect_raw_peer(ECHO_SERVICER) as peer:
        await peer.send(
            request_headers_frame(1) + frames.encode_frame(FrameType.DATA, 0, 1, b"\0\0\0\1\0")
        )
        for _ in range(5):
            await peer.send(frames.encode_frame(FrameType.DATA, 0, 1, b"x"))
        await run_timeouts_after(peer, 59)
        assert peer.server.streams != {}
        await run_timeouts_after(peer, 61)
        assert peer.server.streams == {}
        await run_timeouts_after(peer, 64)  # It has had the time to end its side of the call.
        peer.assert_nothing_left()
        assert not peer.server.closed


async def test_a_peer_without_a_sign_of_life_is_lost() -> None:
    timeouts = Timeouts(keepalive_time=30, keepalive_timeout=5)
    until = CancellationRecorder()
    async with connect_raw_peer(CallbackServicer(Echo=until), timeouts=timeouts) as peer:
        await peer.send(
            request_headers_frame(1) + frames.encode_frame(FrameType.DATA, 1, 1, b"\0\0\0\0\0")
        )
        await until.started.wait()
        answers = await run_timeouts_after(peer, 31)
        assert answers[-1][0] == FrameType.PING
        await run_timeouts_after(peer, 35)
        assert not peer.server.closed
        await run_timeouts_after(peer, 31 + 6)
        assert peer.server.closed
        assert until.cancelled.is_set()


async def test_a_peer_that_answers_stays() -> None:
    timeouts = Timeouts(keepalive_time=30, keepalive_timeout=5)
    async with connect_raw_peer(ECHO_SERVICER, timeouts=timeouts) as peer:
        answers = await run_timeouts_after(peer, 31)
        await peer.send(frames.ping(answers[-1][3], ack=True))
        peer.server._ping_sent_at = trio.current_time() - 1
        peer.server._last_read_at = trio.current_time()
        await run_timeouts_after(peer, 10)
        assert not peer.server.closed


@pytest.mark.parametrize(
    "timeouts",
    [Timeouts(max_connection_idle=5), Timeouts(max_connection_age=5)],
    ids=["idle", "age"],
)
async def test_a_client_is_sent_elsewhere(timeouts: Timeouts) -> None:
    async with connect_raw_peer(ECHO_SERVICER, timeouts=timeouts) as peer:
        await run_timeouts_after(peer, 4)
        assert not peer.server._is_draining
        answers = await run_timeouts_after(peer, 6)
        assert answers[-2][0] == FrameType.GOAWAY
        assert int.from_bytes(answers[-2][3][:4], "big") == 2**31 - 1
        await peer.send(frames.ping(answers[-1][3], ack=True))
        assert peer.server.closed


async def test_an_aged_connections_call_may_finish() -> None:
    release = trio.Event()

    async def slow(message: Any) -> EchoReply:
        await release.wait()
        return echo_reply("late")

    async with connect_pair(
        CallbackServicer(Echo=slow), timeouts=Timeouts(max_connection_age=5)
    ) as pair:
        replies: list[str] = []

        async def call() -> None:
            replies.append((await pair.stub.Echo(echo_request(""))).message)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(call)
            await pair.wait_until_idle()
            pair.server.check_timeouts(trio.current_time() + 6)
            await pair.wait_until_idle()
            assert not pair.client.is_usable
            release.set()
        assert replies == ["late"]
