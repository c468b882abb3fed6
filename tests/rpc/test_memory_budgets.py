"""Memory is bounded for a connection, a peer and the process, without harm to other calls."""

from __future__ import annotations

import gzip
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import Any

import purerpc
import pytest
import trio
from echo.v1.echo_grpc import EchoServiceStub
from echo.v1.echo_pb2 import EchoReply, EchoRequest

from meshtrio.client.channel import connect_to
from meshtrio.contract import FORWARDED_METADATA_KEY
from meshtrio.grpc.framing import frame_message
from meshtrio.http2 import frames
from meshtrio.http2.frames import FrameType
from meshtrio.http2.hpack.decoder import HeaderDecoder
from meshtrio.http2.limits import DEFAULT_MAX_MESSAGE_SIZE, Limits
from meshtrio.rpc.peer_accounts import PROCESS_MEMORY
from meshtrio.rpc.server import Server
from tests import ROOT
from tests.support.connection_pairs import (
    CallbackServicer,
    RawPeer,
    connect_pair,
    connect_raw_peer,
    echo_reply,
    echo_request,
)
from tests.support.mesh_processes import wait_for_server
from tests.support.proc import read_rss
from tests.support.raw_calls import message_data_frames, request_headers_frame
from tests.support.servers import serve_on_socket

MIB = 1024 * 1024
JOIN = b"/echo.v1.EchoService/Join"
SMALL = Limits(
    connection_memory=4 * MIB,
    peer_memory=8 * MIB,
    max_message_size=16 * MIB,
    stream_window=65_535,
)
"""Of which 2 MiB are for what is received, and 1 MiB for large messages under way."""
MIB_OF_TEXT = echo_request("x" * MIB).SerializeToString()


@pytest.fixture(autouse=True)
def assert_all_memory_released() -> Iterator[None]:
    yield
    assert (PROCESS_MEMORY.received, PROCESS_MEMORY.working) == (0, 0)


class HoldingHandler:
    """A handler that holds its request until `go` is set."""

    def __init__(self) -> None:
        self.go = trio.Event()
        self.now = self.most = 0

    async def __call__(self, message: EchoRequest) -> EchoReply:
        self.now += 1
        self.most = max(self.most, self.now)
        try:
            await self.go.wait()
            await trio.lowlevel.checkpoint()
        finally:
            self.now -= 1
        return echo_reply(str(len(message.message)))


async def sizes(messages: AsyncIterator[EchoRequest]) -> EchoReply:
    return echo_reply(str(sum([len(message.message) async for message in messages])))


async def read_ended_streams(peer: RawPeer) -> dict[int, bytes]:
    """Return the last header block of each stream that the server has ended."""
    await trio.testing.wait_all_tasks_blocked(0.02)
    return {f[2]: f[3] for f in peer.read_frames() if f[0] == FrameType.HEADERS}


# -- received ------------------------------------------------------------------------------------


async def test_unfinished_messages_of_one_connection_are_bounded() -> None:
    """Each of 100 streams sends as much as its window allows of 1 MiB, but does not end it."""
    async with connect_raw_peer(CallbackServicer(Echo=HoldingHandler()), limits=SMALL) as peer:
        begin = bytes(1) + MIB.to_bytes(4, "big") + bytes(60_000)
        for stream_id in range(1, 201, 2):
            data = frames.encode_frame(FrameType.DATA, 0, stream_id, begin)
            await peer.send(request_headers_frame(stream_id) + data)
        assert PROCESS_MEMORY.received <= 3 * MIB
        blocks = await read_ended_streams(peer)
        assert len(blocks) > 60
        text = (
            b"received messages that the handler has not taken exceed 2097152 bytes for one "
            b"connection (half of connection_memory)"
        )
        assert all(
            b"grpc-status" in block and text in block for block in map(decoded, blocks.values())
        )


def decoded(block: bytes) -> bytes:
    fields = HeaderDecoder(2**20, 2**20).decode(block, tuple)
    return b" ".join(part for field in fields for part in field)


async def test_unfinished_frames_of_many_connections_are_bounded(short_dir: Path) -> None:
    """Header blocks of 900 KB, which are sent but for their end, on 20 connections."""
    limits = Limits(peer_memory=8 * MIB)
    part = frames.encode_frame(FrameType.CONTINUATION, 0, 1, bytes(16_000)) * 56
    block = frames.encode_frame(FrameType.HEADERS, 0, 1, bytes(100)) + part
    path = short_dir / "s"
    async with serve_on_socket(
        path, Server(CallbackServicer(Echo=HoldingHandler()), limits=limits)
    ) as server:
        async with AsyncExitStack() as stack:
            for _ in range(20):
                stream = await stack.enter_async_context(await trio.open_unix_socket(path))
                with suppress(trio.BrokenResourceError):
                    await stream.send_all(frames.PREFACE + frames.settings({}) + block)
                await trio.testing.wait_all_tasks_blocked(0.02)
            assert PROCESS_MEMORY.received < 8 * MIB
            assert len([each for each in server.connections if not each.closed]) < 10
            assert (await read_to_end(stream)).endswith(
                b"incomplete frames exceed 4194304 bytes for process %d (half of peer_memory)"
                % os.getpid()
            )


async def read_to_end(stream: trio.SocketStream) -> bytes:
    received = b""
    with trio.fail_after(60), suppress(trio.BrokenResourceError):
        while data := await stream.receive_some(65536):
            received += data
    return received


async def test_unread_messages_of_one_stream_are_counted() -> None:
    """With what their objects take: 85,000 messages of two bytes each."""

    async def waits(messages: AsyncIterator[EchoRequest]) -> EchoReply:
        await trio.sleep_forever()
        return echo_reply("")

    async with connect_raw_peer(CallbackServicer(Join=waits), limits=Limits()) as peer:
        message = bytes(4) + b"\x02\x0a\x00"
        data = frames.encode_frame(FrameType.DATA, 0, 1, message * 30_000)
        await peer.send(request_headers_frame(1, path=JOIN) + data)
        assert PROCESS_MEMORY.received >= 7 * 30_000


async def test_large_messages_take_turns_and_all_arrive() -> None:
    """Together they are five times as large as what there is for them."""
    async with connect_pair(CallbackServicer(Join=sizes), server_limits=SMALL) as pair:

        async def one() -> None:
            async def messages() -> AsyncIterator[EchoRequest]:
                yield echo_request("x" * MIB)
                yield echo_request("y" * MIB)

            assert (await pair.stub.Join(messages())).message == str(2 * MIB)

        with trio.fail_after(120):
            async with trio.open_nursery() as nursery:
                for _ in range(5):
                    nursery.start_soon(one)


async def test_a_message_larger_than_the_budget_arrives_if_it_is_alone() -> None:
    async with connect_pair(CallbackServicer(Echo=sizes_of_one), server_limits=SMALL) as pair:
        with trio.fail_after(120):
            assert (await pair.stub.Echo(echo_request("x" * 12 * MIB))).message == str(12 * MIB)
            async with trio.open_nursery() as nursery:
                for _ in range(3):
                    nursery.start_soon(pair.stub.Echo, echo_request("x" * 12 * MIB))


async def sizes_of_one(message: EchoRequest) -> EchoReply:
    return echo_reply(str(len(message.message)))


async def test_a_message_that_waits_for_room_goes_on_when_another_is_given_up() -> None:
    async with connect_raw_peer(CallbackServicer(Join=sizes), limits=SMALL) as peer:
        begin = bytes(1) + MIB.to_bytes(4, "big") + bytes(60_000)
        for stream_id in (1, 3, 5):
            data = frames.encode_frame(FrameType.DATA, 0, stream_id, begin)
            await peer.send(request_headers_frame(stream_id, path=JOIN) + data)
        assert read_granted_windows(peer) == {1: MIB}
        await peer.send(frames.rst_stream(1, 8))
        assert read_granted_windows(peer) == {3: MIB}


async def test_what_arrives_beside_a_message_larger_than_the_budget_is_answered() -> None:
    """A message in two frames, while one of 12 MiB is on its way on the same connection."""
    async with connect_raw_peer(CallbackServicer(Join=sizes), limits=SMALL) as peer:
        begin = bytes(1) + (12 * MIB).to_bytes(4, "big") + bytes(60_000)
        large = frames.encode_frame(FrameType.DATA, 0, 1, begin)
        await peer.send(request_headers_frame(1, path=JOIN) + large)
        assert read_granted_windows(peer) == {1: 12 * MIB}
        text = echo_request("x" * 40_000).SerializeToString()
        data = bytes(1) + len(text).to_bytes(4, "big") + text
        await peer.send(
            request_headers_frame(3, path=JOIN)
            + frames.encode_frame(FrameType.DATA, 0, 3, data[:20_000])
        )
        await peer.send(frames.encode_frame(FrameType.DATA, frames.END_STREAM, 3, data[20_000:]))
        with trio.fail_after(60):
            replies: list[bytes] = []
            while not replies:
                await trio.lowlevel.wait_readable(peer.sock)
                replies = [f[3] for f in peer.read_frames() if f[0] == FrameType.DATA]
        assert replies == [frame_message(echo_reply("40000").SerializeToString())]
        assert PROCESS_MEMORY.reserved > 12 * MIB
    assert PROCESS_MEMORY.reserved == 0


def read_granted_windows(peer: RawPeer) -> dict[int, int]:
    """MiB, rounded, that the server has let the peer send on its streams since the last time."""
    found: dict[int, int] = {}
    for kind, _, stream_id, payload in peer.read_frames():
        if kind == FrameType.WINDOW_UPDATE and stream_id:
            size = int.from_bytes(payload, "big")
            found[stream_id] = round(size / MIB) * MIB
    return found


# -- what calls work with ------------------------------------------------------------------------


async def test_messages_are_decompressed_as_there_is_room_for_them() -> None:
    """50 of 1 MiB each, of which a handler may hold each as long as it likes."""
    held = HoldingHandler()
    bomb = gzip.compress(MIB_OF_TEXT)
    async with connect_raw_peer(CallbackServicer(Echo=held), limits=SMALL) as peer:
        for stream_id in range(1, 101, 2):
            call = request_headers_frame(stream_id, (b"grpc-encoding", b"gzip"))
            await peer.send(call + message_data_frames(stream_id, bomb, end=True, compressed=True))
        assert 1 <= held.most <= 3
        assert PROCESS_MEMORY.working <= 6 * MIB
        held.go.set()
        with trio.fail_after(120):
            answers = 0
            while answers < 50:
                await trio.lowlevel.wait_readable(peer.sock)
                found = peer.read_frames()
                assert all(b"\x08" not in f[3][:0] for f in found)
                answers += sum(1 for f in found if f[0] == FrameType.DATA)
        assert held.most <= 3


async def test_a_call_does_not_wait_for_room_for_ever() -> None:
    held = HoldingHandler()
    async with connect_pair(CallbackServicer(Echo=held), server_limits=SMALL) as pair:
        async with trio.open_nursery() as nursery:
            for _ in range(2):
                nursery.start_soon(pair.stub.Echo, echo_request("x" * MIB))
            await pair.wait_until_idle()
            assert pair.server.account is not None
            pair.server.account.peer_account.work_timeout = 0.05
            with pytest.raises(purerpc.ResourceExhaustedError, match="no memory for") as caught:
                with trio.fail_after(60):
                    await pair.stub.Echo(echo_request("small"))
            assert caught.value.status.status_message == (
                "no memory for the call within 0.05 s: requests and unread replies of other calls "
                "exceed 2097152 bytes for one connection (half of connection_memory)"
            )
            held.go.set()


async def test_replies_that_are_not_read_are_bounded() -> None:
    """Each call is answered with 1 MiB, of which the peer reads nothing."""

    async def large(message: EchoRequest) -> EchoReply:
        await trio.testing.wait_all_tasks_blocked(0.01)
        return echo_reply("x" * MIB)

    async with connect_raw_peer(CallbackServicer(Echo=large), limits=SMALL) as peer:
        for stream_id in range(1, 81, 2):
            call = request_headers_frame(stream_id) + message_data_frames(stream_id, b"", end=True)
            peer.sock.send(call)
        await trio.testing.wait_all_tasks_blocked(0.05)
        assert PROCESS_MEMORY.working <= 8 * MIB
        found = [f for f in peer.read_frames() if f[0] == FrameType.HEADERS]
        text = (
            b"replies that the caller has not read exceed 4194304 bytes for one connection "
            b"(connection_memory)"
        )
        assert sum(text in decoded_last(f[3]) for f in found) >= 30


def decoded_last(block: bytes) -> bytes:
    try:
        return decoded(block)
    except Exception:
        return b""


async def test_calls_with_large_replies_begin_as_there_is_room_for_them() -> None:
    """Once it is known how large the replies of a method are: all of 40 succeed."""

    async def large(message: EchoRequest) -> EchoReply:
        await trio.lowlevel.checkpoint()
        return echo_reply("x" * MIB)

    async with connect_pair(CallbackServicer(Echo=large), server_limits=SMALL) as pair:
        await pair.stub.Echo(echo_request("first"))
        with trio.fail_after(120):
            async with trio.open_nursery() as nursery:
                for _ in range(40):
                    nursery.start_soon(pair.stub.Echo, echo_request("x"))


async def test_clients_of_a_gateway_have_budgets_of_their_own() -> None:
    """The mesh calls for both on one connection: what one of them holds is not the other's."""
    held = HoldingHandler()
    one = [(FORWARDED_METADATA_KEY, "127.0.0.1:5%20%28without%20a%20certificate%29")]
    same = [(FORWARDED_METADATA_KEY, "127.0.0.1:6%20%28without%20a%20certificate%29")]
    other = [(FORWARDED_METADATA_KEY, "uid%201%20%28pid%205%29")]
    servicer = CallbackServicer(Echo=held, Join=sizes)
    async with connect_pair(servicer, server_limits=SMALL, trusted_pid=os.getpid()) as pair:
        async with trio.open_nursery() as nursery:
            for number in range(8):
                metadata = one if number % 2 else same
                nursery.start_soon(_call, pair.stub, "x" * MIB, metadata)
            await pair.wait_until_idle()
            assert held.now <= 3

            async def messages() -> AsyncIterator[EchoRequest]:
                yield echo_request("y" * MIB)

            with trio.fail_after(60):
                answer = await pair.stub.Join(messages(), metadata=other)
            assert answer.message == str(MIB)
            held.go.set()


async def _call(stub: Any, text: str, metadata: list[tuple[str, str]]) -> None:
    await stub.Echo(echo_request(text), metadata=metadata)


async def test_the_budget_of_the_process_is_taken_from_who_has_most() -> None:
    limits = Limits(process_memory=8 * MIB)
    held = HoldingHandler()
    greedy = [(FORWARDED_METADATA_KEY, "uid%201%20%28pid%205%29")]
    modest = [(FORWARDED_METADATA_KEY, "uid%202%20%28pid%206%29")]
    async with connect_pair(
        CallbackServicer(Echo=held), server_limits=limits, trusted_pid=os.getpid()
    ) as pair:
        async with trio.open_nursery() as nursery:
            for _ in range(10):
                nursery.start_soon(_call, pair.stub, "x" * MIB, greedy)
            await pair.wait_until_idle()
            before = held.now
            assert before <= 4
            nursery.start_soon(_call, pair.stub, "x" * 10_000, modest)
            await pair.wait_until_idle()
            assert held.now == before + 1
            held.go.set()


# -- real processes ------------------------------------------------------------------------------


def read_resident_memory(pid: int) -> float:
    """Return the resident memory of a process in MiB."""
    return read_rss(pid) / MIB


async def test_a_plugin_gives_memory_back_after_an_attack(short_dir: Path) -> None:
    """300 messages of 4 MiB, each without its last byte, on one connection."""
    path = short_dir / "s"
    with subprocess.Popen(  # noqa: ASYNC220
        [sys.executable, "echo_plugin.py"],
        cwd=ROOT / "examples" / "echo-plugin",
        env={**os.environ, "PLUGIN_SOCKET": str(path)},
    ) as process:
        try:
            with trio.fail_after(120):
                await trio.to_thread.run_sync(wait_for_server, path)
                start = read_resident_memory(process.pid)
                highest = await _attack(path, process.pid)
                assert highest - start < 250
                while read_resident_memory(process.pid) - start > 40:  # noqa: ASYNC110
                    await trio.sleep(0.1)
                async with connect_to(f"unix:{path}") as channel:
                    answer = await channel.stub(EchoServiceStub).Echo(echo_request("unharmed"))
                    assert answer.message == "unharmed"
        finally:
            process.kill()


async def _attack(path: Path, pid: int) -> float:
    """Send until the windows are used up; returns the most memory that was seen."""
    highest = 0.0
    size = DEFAULT_MAX_MESSAGE_SIZE
    async with await trio.open_unix_socket(path) as stream, trio.open_nursery() as nursery:

        async def read() -> None:
            while await stream.receive_some(65536):
                pass

        nursery.start_soon(read)
        await stream.send_all(frames.PREFACE + frames.settings({}))
        begin = bytes(1) + size.to_bytes(4, "big") + bytes(16_000)
        for stream_id in range(1, 601, 2):
            await stream.send_all(request_headers_frame(stream_id))
            await stream.send_all(frames.encode_frame(FrameType.DATA, 0, stream_id, begin))
            for _ in range(14):
                piece = frames.encode_frame(FrameType.DATA, 0, stream_id, bytes(16_000))
                await stream.send_all(piece)
            highest = max(highest, read_resident_memory(pid))
        nursery.cancel_scope.cancel()
    return highest
