"""Peers share the event loop fairly."""

from __future__ import annotations

import gzip
import sys
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import trio
from echo.v1.echo_pb2 import EchoReply, EchoRequest, RepeatRequest

from meshtrio.http2 import frames
from meshtrio.http2.frames import FrameType, Setting
from meshtrio.rpc.fairness import EventLoopShare
from meshtrio.transport.transport import Buffer
from meshtrio.util.concurrency import open_collapsing_nursery
from tests.support.connection_pairs import (
    CallbackServicer,
    connect_pair,
    connect_raw_peer,
    echo_reply,
    echo_request,
)
from tests.support.raw_calls import message_data_frames, request_headers_frame

JOIN, REPEAT = b"/echo.v1.EchoService/Join", b"/echo.v1.EchoService/Repeat"
MANY_REPLIES = 200_000
"""More than a handler makes in ten slices, on any machine."""
EMPTY = bytes(5)
"""A message of no bytes."""


class PassCounter:
    """Counts the passes that the event loop makes."""

    def __init__(self) -> None:
        self.number = 0

    async def run(self) -> None:
        while True:
            await trio.lowlevel.checkpoint()
            self.number += 1


@asynccontextmanager
async def count_passes() -> AsyncIterator[PassCounter]:
    passes = PassCounter()
    async with open_collapsing_nursery() as nursery:
        nursery.start_soon(passes.run)
        await trio.lowlevel.checkpoint()
        yield passes
        nursery.cancel_scope.cancel()


def disable_time_slices(*shares: EventLoopShare) -> None:
    """Let each slice be over at once, however fast the machine is."""
    for share in shares:
        share.max_time_slice = share.min_time_slice = 0.0


# -- turns ---------------------------------------------------------------------------------------


async def test_of_each_peer_one_task_has_a_turn_in_each_pass() -> None:
    shares = [EventLoopShare(), EventLoopShare()]
    turns: Counter[tuple[int, int]] = Counter()
    async with count_passes() as passes, trio.open_nursery() as nursery:

        async def work(number: int) -> None:
            for _ in range(20):
                await shares[number].wait_for_turn()
                turns[number, passes.number] += 1

        for _ in range(10):
            nursery.start_soon(work, 0)
        nursery.start_soon(work, 1)
    assert sum(turns.values()) == 220
    # The counting task runs before or after the others in a pass, so that two look like one.
    assert max(turns.values()) <= 2
    (first, second) = ({p for n, p in turns if n == number} for number in (0, 1))
    assert max(second) < max(first) / 2, "a peer with one task does not wait for one with ten"


async def test_a_task_that_is_cancelled_while_it_waits_passes_its_turn_on() -> None:
    share, had = EventLoopShare(), []
    async with trio.open_nursery() as nursery:

        async def work(number: int) -> None:
            with trio.CancelScope() as scope:
                scopes.append(scope)
                await share.wait_for_turn()
                had.append(number)

        scopes: list[trio.CancelScope] = []
        for number in range(5):
            nursery.start_soon(work, number)
        await trio.lowlevel.checkpoint()
        for scope in scopes[:3]:
            scope.cancel()
    assert len(had) >= 2
    await share.wait_for_turn()
    assert EventLoopShare._waiting_peers == 0


def test_a_peer_may_use_half_of_the_time() -> None:
    now = [100.0]
    share = EventLoopShare(clock=lambda: now[0])
    assert not share.charge(0.002)
    assert share.charge(0.010)
    now[0] += 0.019
    assert share.charge(0.0)
    now[0] += 0.002
    assert not share.charge(0.0)


# -- reading -------------------------------------------------------------------------------------


async def counts(messages: AsyncIterator[EchoRequest]) -> EchoReply:
    count = 0
    async for _ in messages:
        count += 1
    return echo_reply(str(count))


async def test_a_read_of_very_many_frames_is_processed_in_many_passes() -> None:
    async def waits(messages: AsyncIterator[EchoRequest]) -> EchoReply:
        await trio.sleep_forever()
        return echo_reply("")

    async with connect_raw_peer(CallbackServicer(Join=waits)) as peer:
        disable_time_slices(peer.server.loop_share)
        before = peer.server.windows.receive
        byte = frames.encode_frame(FrameType.DATA, 0, 1, b"\0")
        data = request_headers_frame(1, path=JOIN) + byte * 6400
        async with count_passes() as passes:
            peer.sock.send(data)
            while peer.server.windows.receive > before - 6400:
                await trio.lowlevel.checkpoint()
            assert passes.number > 25


async def test_messages_of_one_frame_are_handled_in_many_passes() -> None:
    """50,000 empty messages in one frame of 250 KB: neither is it cut at once, nor are they handled
    without a pause."""
    async with connect_raw_peer(CallbackServicer(Join=counts)) as peer:
        disable_time_slices(peer.server.loop_share)
        data = frames.encode_frame(FrameType.DATA, frames.END_STREAM, 1, EMPTY * 50_000)
        async with count_passes() as passes:
            raw = memoryview(request_headers_frame(1, path=JOIN) + data)
            while raw:
                await trio.lowlevel.wait_writable(peer.sock)
                raw = raw[peer.sock.send(raw) :]
            with trio.fail_after(60):
                while b"50000" not in b"".join(frame[3] for frame in peer.read_frames()):
                    await trio.lowlevel.wait_readable(peer.sock)
            assert passes.number > 20_000


async def test_what_is_cut_later_is_all_there_and_in_order() -> None:
    async def lengths(messages: AsyncIterator[EchoRequest]) -> EchoReply:
        await trio.testing.wait_all_tasks_blocked(0.01)
        return echo_reply(str([len(message.message) async for message in messages]))

    texts = ["x" * (number % 50) for number in range(2000)] + ["y" * 30_000, "z"]
    encoded = [EchoRequest(message=text).SerializeToString() for text in texts]
    raw = b"".join(bytes(1) + len(each).to_bytes(4, "big") + each for each in encoded)
    async with connect_raw_peer(CallbackServicer(Join=lengths)) as peer:
        middle = len(raw) // 2
        await peer.send(request_headers_frame(1, path=JOIN))
        await peer.send(frames.encode_frame(FrameType.DATA, 0, 1, raw[:middle]))
        await peer.send(frames.encode_frame(FrameType.DATA, frames.END_STREAM, 1, raw[middle:]))
        await trio.testing.wait_all_tasks_blocked(0.01)
        body = b"".join(frame[3] for frame in peer.read_frames() if frame[0] == FrameType.DATA)
        assert EchoReply.FromString(body[5:]).message == str([len(text) for text in texts])


async def test_compressed_messages_are_taken_one_in_a_pass_once_time_is_used_up() -> None:
    taken: Counter[int] = Counter()
    bomb = gzip.compress(EchoRequest(message="x" * 100_000).SerializeToString())

    passes = PassCounter()

    async def echo(message: EchoRequest) -> EchoReply:
        taken[passes.number] += 1
        return echo_reply(str(len(message.message)))

    async with (
        connect_raw_peer(CallbackServicer(Echo=echo)) as peer,
        trio.open_nursery() as nursery,
    ):
        share = peer.server.loop_share
        share.burst = share.remaining = -1.0
        nursery.start_soon(passes.run)
        encoding = (b"grpc-encoding", b"gzip")
        for n in range(1, 41, 2):
            call = request_headers_frame(n, encoding) + message_data_frames(
                n, bomb, end=True, compressed=True
            )
            peer.sock.send(call)
        with trio.fail_after(60):
            while sum(taken.values()) < 20:
                await trio.lowlevel.checkpoint()
        nursery.cancel_scope.cancel()
    # The counting task runs before or after the others in a pass, so that two look like one.
    assert max(taken.values()) <= 2


# -- sending -------------------------------------------------------------------------------------


class FastReader:
    """A peer that has read what is written at once, always, and grants every window."""

    def __init__(self, pair: Any) -> None:
        self.size = 0
        pair.server.windows.send = 2**62
        for stream in pair.server._engine.streams.by_id.values():
            stream.send_window = 2**62
        pair.server.transport.try_send = self._take

    def _take(self, buffers: Sequence[Buffer]) -> int:
        size = sum(map(len, buffers))
        self.size += size
        return size


async def test_a_handler_whose_peer_reads_fast_lets_others_work() -> None:
    """Without a pause it would be the only task to run, for ever."""
    began, others_ran = trio.Event(), trio.Event()
    sent = 0

    async def replies(message: RepeatRequest) -> AsyncIterator[EchoReply]:
        nonlocal sent
        FastReader(pair)
        began.set()
        while sent < MANY_REPLIES and not others_ran.is_set():
            sent += 1
            yield echo_reply("x")

    async with (
        connect_pair(CallbackServicer(Repeat=replies)) as pair,
        trio.open_nursery() as nursery,
    ):

        async def call() -> None:
            async for _ in pair.stub.Repeat(RepeatRequest(message="x", count=1)):
                pass

        nursery.start_soon(call)
        await began.wait()
        for _ in range(10):
            await trio.lowlevel.checkpoint()
        others_ran.set()
        assert sent < MANY_REPLIES
        nursery.cancel_scope.cancel()


async def test_requests_that_come_fast_are_taken_in_many_passes() -> None:
    """A client's requests as well as a server's taking them."""

    async def texts() -> AsyncIterator[EchoRequest]:
        for _ in range(500):
            yield echo_request("x")

    async with connect_pair(CallbackServicer(Join=counts)) as pair, count_passes() as passes:
        disable_time_slices(pair.client.loop_share, pair.server.loop_share)
        assert (await pair.stub.Join(texts())).message == "500"
        assert passes.number > 250


READER = """
import select, socket, sys
with socket.socket(fileno=int(sys.argv[1])) as sock:  # it does not block
    while select.select([sock], [], []) and sock.recv(1 << 20):
        pass
"""


async def test_a_process_that_reads_as_fast_as_it_can_does_not_starve_the_server() -> None:
    """A real one, over a real socket, with windows that are never used up."""
    others_ran = trio.Event()

    async def replies(message: RepeatRequest) -> AsyncIterator[EchoReply]:
        while not others_ran.is_set():
            yield echo_reply("x" * 1000)

    settings = {Setting.INITIAL_WINDOW_SIZE: frames.MAX_WINDOW_SIZE}
    preface = frames.PREFACE + frames.settings(settings)
    preface += frames.window_update(0, frames.MAX_WINDOW_SIZE - frames.DEFAULT_INITIAL_WINDOW_SIZE)
    async with connect_raw_peer(CallbackServicer(Repeat=replies), preface=preface) as peer:
        sock = peer.sock
        command = [sys.executable, "-c", READER, str(sock.fileno())]
        async with trio.open_nursery() as nursery:
            run = partial(trio.run_process, pass_fds=[sock.fileno()])
            nursery.start_soon(run, command)
            try:
                call = RepeatRequest(message="x", count=1).SerializeToString()
                raw = bytes(1) + len(call).to_bytes(4, "big") + call
                end = frames.encode_frame(FrameType.DATA, frames.END_STREAM, 1, raw)
                sock.send(request_headers_frame(1, path=REPEAT) + end)
                for _ in range(200):
                    await trio.lowlevel.checkpoint()
                others_ran.set()
            finally:
                nursery.cancel_scope.cancel()
