"""Large messages are received directly into memory that is used again."""

from __future__ import annotations

import gzip
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
import trio
import trio.testing
from echo.v1.echo_pb2 import EchoReply, EchoRequest

from meshtrio.client.multicallable import RawReply
from meshtrio.grpc.framing import frame_message, pack_message_prefix
from meshtrio.http2 import frames
from meshtrio.http2.frames import FrameType
from meshtrio.http2.limits import Limits
from meshtrio.rpc.method import Method
from meshtrio.rpc.peer_accounts import PROCESS_MEMORY
from meshtrio.rpc.tracer_dispatch import MessageTracer
from meshtrio.util.message_buffers import MESSAGE_BUFFERS, MessageBuffers
from tests.support.connection_pairs import (
    CallbackServicer,
    connect_pair,
    connect_raw_peer,
    echo_reply,
    echo_request,
)
from tests.support.direct_channels import channel_over_connection
from tests.support.raw_calls import request_headers_frame

MIB = 1024 * 1024
JOIN = b"/echo.v1.EchoService/Join"
REPEAT = Method("echo.v1.EchoService", "Repeat", EchoRequest, RawReply, False, True)


@pytest.fixture(autouse=True)
def assert_all_memory_released() -> Iterator[None]:
    yield
    assert (PROCESS_MEMORY.received, PROCESS_MEMORY.working) == (0, 0)


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> list[bytearray]:
    """The buffers that were taken, in order."""
    found: list[bytearray] = []

    def take(self: MessageBuffers, size: int) -> bytearray:
        found.append(original(self, size))
        return found[-1]

    original = MessageBuffers.take
    monkeypatch.setattr(MessageBuffers, "take", take)
    return found


def text_of(number: int, size: int = MIB) -> str:
    """A text that tells where each of its parts belongs."""
    unit = f"{number:05d}"
    return "".join(f"{unit}{position:07d}" for position in range(size // 12 + 1))[:size]


async def echo(message: EchoRequest) -> EchoReply:
    return echo_reply(message.message)


async def chat(messages: AsyncIterator[EchoRequest]) -> AsyncIterator[EchoReply]:
    async for message in messages:
        yield echo_reply(message.message)


async def repeat(message: EchoRequest) -> AsyncIterator[EchoReply]:
    for number in range(4):
        yield echo_reply(text_of(number))


SERVICER = CallbackServicer(Echo=echo, Chat=chat, Repeat=repeat)


@pytest.mark.parametrize("size", [60_000, 262_100, 262_144, 300_000, MIB, 4 * MIB - 20])
async def test_messages_of_all_sizes_arrive(size: int) -> None:
    async with connect_pair(SERVICER) as pair:
        for number in range(3):
            text = text_of(number, size)
            assert (await pair.stub.Echo(echo_request(text))).message == text
        pair.assert_nothing_left()


async def test_large_messages_and_small_ones_of_a_stream_arrive_in_order() -> None:
    texts = [text_of(number, size) for number, size in enumerate([MIB, 5, 700_000, 0, 70_000, MIB])]

    async def requests() -> AsyncIterator[EchoRequest]:
        for text in texts:
            yield echo_request(text)

    async with connect_pair(SERVICER) as pair:
        assert [reply.message async for reply in pair.stub.Chat(requests())] == texts


async def test_large_messages_of_many_calls_at_once_are_not_mixed_up() -> None:
    async with connect_pair(SERVICER) as pair, trio.open_nursery() as nursery:

        async def call(number: int) -> None:
            for turn in range(3):
                text = text_of(number * 10 + turn, 900_000 + 1000 * number)
                assert (await pair.stub.Echo(echo_request(text))).message == text

        for number in range(8):
            nursery.start_soon(call, number)


async def test_calls_that_are_cancelled_while_their_reply_arrives_harm_no_others() -> None:
    async with connect_pair(SERVICER) as pair:
        for number in range(40):
            text = text_of(number)
            with trio.CancelScope() as scope:
                async with trio.open_nursery() as nursery:

                    async def cancel_after(passes: int, scope: trio.CancelScope) -> None:
                        for _ in range(passes):
                            await trio.lowlevel.checkpoint()
                        scope.cancel()

                    nursery.start_soon(cancel_after, number, scope)
                    await pair.stub.Echo(echo_request(text))
            assert (await pair.stub.Echo(echo_request(text))).message == text
        await pair.wait_until_idle()
        pair.assert_nothing_left()


async def test_a_client_receives_all_large_replies_of_a_stream_into_the_same_memory(
    taken: list[bytearray],
) -> None:
    async with connect_pair(SERVICER) as pair:
        found = [reply.message async for reply in pair.stub.Repeat(echo_request(""))]
        assert found == [text_of(number) for number in range(4)]
    assert len(taken) == 4
    assert len(set(map(id, taken))) <= 2  # One is received while the one before is parsed.
    assert MESSAGE_BUFFERS.kept_size == 0  # As the connection is closed.


async def test_memory_is_not_kept_by_an_idle_connection(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with connect_pair(SERVICER) as pair:
        await pair.stub.Echo(echo_request(text_of(1)))
        assert MESSAGE_BUFFERS.kept_size > 0
        await trio.sleep(3)
        assert MESSAGE_BUFFERS.kept_size == 0


async def test_a_large_message_that_was_sent_is_kept_until_the_next_one() -> None:
    async with connect_pair(CallbackServicer(Echo=size_of)) as pair:
        for size in (MIB, MIB, MIB + 1000):
            await pair.stub.Echo(echo_request("x" * size))
        received = 2 * (MIB + 1000)  # At most, on the server's side.
        assert MIB + 1000 < MESSAGE_BUFFERS.kept_size <= received + MIB + 2000
        await pair.wait_until_idle()
        assert MESSAGE_BUFFERS.kept_size == 0


async def test_a_server_makes_no_memory_for_a_message_it_has_not_room_for(
    taken: list[bytearray],
) -> None:
    """Of three messages one has a reservation, and the others wait for it."""
    limits = Limits(
        connection_memory=4 * MIB, peer_memory=8 * MIB, max_message_size=MIB, stream_window=65_535
    )

    async def sizes(messages: AsyncIterator[EchoRequest]) -> EchoReply:
        return echo_reply(str(sum([len(message.message) async for message in messages])))

    async with connect_raw_peer(CallbackServicer(Join=sizes), limits=limits) as peer:
        size = 1_000_000
        for stream_id in (1, 3, 5):
            begin = pack_message_prefix(False, size) + bytes(60_000)
            data = frames.encode_frame(FrameType.DATA, 0, stream_id, begin)
            await peer.send(request_headers_frame(stream_id, path=JOIN) + data)
        assert [len(buffer) for buffer in taken] == [size]
        assert PROCESS_MEMORY.received >= size + 2 * 60_000


class Recorder(MessageTracer):
    """Keeps the messages that a stream receives."""

    def __init__(self) -> None:
        self.received: list[Any] = []

    def message_received(self, message: bytes, wire_size: int) -> None:
        self.received.append(message)


async def test_a_tracer_may_keep_large_messages() -> None:
    recorder = Recorder()

    async def traced_repeat(message: EchoRequest) -> AsyncIterator[EchoReply]:
        (stream,) = pair.client.streams.values()
        stream.message_tracer = recorder  # type: ignore[attr-defined]
        async for reply in repeat(message):
            yield reply

    async with connect_pair(CallbackServicer(Repeat=traced_repeat)) as pair:
        _ = [reply async for reply in pair.stub.Repeat(echo_request(""))]
    assert [type(message) for message in recorder.received] == [bytes] * 4
    assert [EchoReply.FromString(message).message for message in recorder.received] == [
        text_of(number) for number in range(4)
    ]


async def test_raw_replies_keep_their_data() -> None:
    async with connect_pair(SERVICER) as pair:
        channel: Any = channel_over_connection(pair.client)
        repeat_raw = channel.make_multicallable(REPEAT)
        replies = [reply async for reply in repeat_raw(echo_request(""))]
    assert [EchoReply.FromString(reply.data).message for reply in replies] == [
        text_of(number) for number in range(4)
    ]


async def test_a_large_compressed_message_arrives() -> None:
    data = gzip.compress(echo_request(text_of(1)).SerializeToString(), compresslevel=0)
    framed = frame_message(data, compressed=True)
    async with connect_raw_peer(CallbackServicer(Echo=size_of)) as peer:
        await peer.send(request_headers_frame(1, (b"grpc-encoding", b"gzip")))
        first, second = framed[:200_000], framed[200_000:]
        await peer.send(frames.encode_frame(FrameType.DATA, 0, 1, first))
        for start in range(0, len(second), 250_000):
            part = second[start : start + 250_000]
            flags = frames.END_STREAM if start + 250_000 >= len(second) else 0
            await peer.send(frames.encode_frame(FrameType.DATA, flags, 1, part))
        (reply,) = [f[3] for f in peer.read_frames() if f[0] == FrameType.DATA]
    assert reply == frame_message(echo_reply(str(MIB)).SerializeToString())


async def size_of(message: EchoRequest) -> EchoReply:
    return echo_reply(str(len(message.message)))
