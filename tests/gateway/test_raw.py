"""A gateway's callers that speak bytes, and not as they should: it harms nobody else."""

from __future__ import annotations

import contextlib
import random
from pathlib import Path
from typing import Any

import purerpc
import pytest
import trio
from echo.v1.echo_grpc import EchoServiceStub
from echo.v1.echo_pb2 import EchoReply, EchoRequest, RepeatRequest

from meshtrio.grpc.framing import frame_message
from meshtrio.http2 import frames
from meshtrio.http2.frame_reader import FrameReader
from meshtrio.http2.limits import Limits
from meshtrio.rpc.server import Server
from tests.support.connection_pairs import CallbackServicer, echo_request
from tests.support.gateways import (
    make_echo_server,
    run_gateway,
    server_with_reflection,
)
from tests.support.raw_calls import connect_raw_socket, encode_request_headers, send_all

METHODS = ("Echo", "Repeat", "Join", "Chat", "NoSuch")


def nonsense(rng: random.Random) -> bytes:
    """Some frames of a client that does not know what it wants."""
    out, next_id, opened = b"", 1, [1]
    for _ in range(rng.randrange(1, 30)):
        kind = rng.randrange(8)
        stream = rng.choice(opened)
        if kind <= 2:
            flags = frames.END_HEADERS | (frames.END_STREAM if rng.random() < 0.2 else 0)
            timeout = [(b"grpc-timeout", b"50m")] if rng.random() < 0.3 else []
            block = encode_request_headers(rng.choice(METHODS), *timeout)
            out += frames.encode_frame(1, flags, next_id, block)
            opened.append(next_id)
            next_id += 2
        elif kind <= 5:
            message = EchoRequest(message="x" * rng.choice([0, 5, 5000])).SerializeToString()
            data = frame_message(message)
            data = data[: rng.choice([len(data), len(data), 3, 0])]
            out += frames.encode_frame(
                0, frames.END_STREAM if rng.random() < 0.4 else 0, stream, data
            )
        elif kind == 6:
            out += frames.rst_stream(stream, 8)
        else:
            out += frames.window_update(stream, rng.choice([1, 1000, 100_000]))
    return out


@pytest.mark.parametrize("seed", range(40))
async def test_nonsense_leaves_nothing_behind(seed: int, short_dir: Path) -> None:
    rng = random.Random(seed)
    async with run_gateway(short_dir, a=make_echo_server()) as behind:
        stub = behind.channel.stub(EchoServiceStub)
        with trio.fail_after(20):
            for _ in range(5):
                async with connect_raw_socket(behind) as peer:
                    data = nonsense(rng)
                    cut = rng.randrange(len(data) + 1) if rng.random() < 0.5 else len(data)
                    with contextlib.suppress(BrokenPipeError):
                        await send_all(peer, data[:cut])
                        if rng.random() < 0.5:
                            await trio.testing.wait_all_tasks_blocked(0.002)
                assert (await stub.Echo(echo_request("hi"))).message == "hi"
        await behind.assert_nothing_left()


async def test_byte_by_byte(short_dir: Path) -> None:
    message = frame_message(EchoRequest(message="slowly").SerializeToString())
    data = frames.encode_frame(1, frames.END_HEADERS, 1, encode_request_headers("Echo"))
    data += frames.encode_frame(0, frames.END_STREAM, 1, message)
    async with (
        run_gateway(short_dir, a=make_echo_server()) as behind,
        connect_raw_socket(behind) as peer,
    ):
        for byte in data:
            await send_all(peer, bytes((byte,)))
            await trio.lowlevel.checkpoint()
        reader = FrameReader(expect_preface=False, max_frame_size=2**20, max_block_size=2**20)
        got: list[tuple[int, int, int, bytes]] = []
        with trio.fail_after(30):
            while not any(flags & frames.END_STREAM for kind, flags, *_ in got if kind == 1):
                got += reader.feed(await peer.recv(65536))
    (body,) = (payload for kind, _, _, payload in got if kind == 0)
    assert EchoReply.FromString(body[5:]).message == "slowly"


async def test_metadata_that_is_too_much_for_the_plugin_costs_only_its_call(
    short_dir: Path,
) -> None:
    little = Server(CallbackServicer(Echo=echo), limits=Limits(max_header_list_size=2048))
    async with run_gateway(short_dir, {"a": ["echo.v1.EchoService"]}, a=little) as behind:
        stub = behind.channel.stub(EchoServiceStub)
        assert (await stub.Echo(echo_request("hi"))).message == "hi"
        with pytest.raises(purerpc.ResourceExhaustedError, match="request's header list of 45"):
            await stub.Echo(echo_request("hi"), metadata=[("much", "x" * 4000)])
        assert (await stub.Echo(echo_request("hi"))).message == "hi"
        assert len(behind.upstream_connections()) == 1
        await behind.assert_nothing_left()


async def echo(message: EchoRequest) -> EchoReply:
    return EchoReply(message=message.message)


async def test_a_plugin_that_says_too_much_costs_only_its_call(short_dir: Path) -> None:
    async def much(message: EchoRequest, request: Any) -> EchoReply:
        setattr(request, message.message, [("much", "x" * 4000)])
        return EchoReply(message="ok")

    little = Limits(max_header_list_size=2048)
    async with run_gateway(
        short_dir, a=server_with_reflection(CallbackServicer(Echo=much))
    ) as behind:
        async with behind.connect_client(little) as channel:
            stub = channel.stub(EchoServiceStub)
            for which in ("initial_metadata", "trailing_metadata"):
                with pytest.raises(purerpc.ResourceExhaustedError, match="response's header list"):
                    await stub.Echo(echo_request(which))
            assert len(behind.server.connections) == 2  # this one and `behind.channel`
        await behind.assert_nothing_left()


async def test_a_caller_that_reads_late_is_told_all_of_every_call(short_dir: Path) -> None:
    """Nothing is lost while more waits for the kernel than may, the ends of calls least of all."""
    wide = frames.settings({4: 2**31 - 1}) + frames.window_update(0, 2**31 - 1 - 65535)
    repeat = frame_message(RepeatRequest(message="x" * 50_000, count=60).SerializeToString())
    echo = frame_message(EchoRequest(message="hi").SerializeToString())
    calls = {1: ("Repeat", repeat), 3: ("Echo", echo), 5: ("NoSuch", echo), 7: ("Echo", echo)}
    async with (
        run_gateway(short_dir, a=make_echo_server()) as behind,
        connect_raw_socket(behind) as peer,
    ):
        await send_all(peer, wide)
        for number, (method, message) in calls.items():
            await send_all(
                peer,
                frames.encode_frame(1, frames.END_HEADERS, number, encode_request_headers(method)),
            )
            await send_all(peer, frames.encode_frame(0, frames.END_STREAM, number, message))
            await trio.testing.wait_all_tasks_blocked(0.05)
        (connection,) = (
            c for c in behind.server.connections if len(c.streams) or c.write_buffer.size
        )
        assert connection.write_buffer.above_high_water
        reader = FrameReader(expect_preface=False, max_frame_size=2**24 - 1, max_block_size=2**20)
        ended, size = set(), 0
        with trio.fail_after(30):
            while ended != set(calls):
                for kind, flags, number, payload in reader.feed(await peer.recv(2**20)):
                    size += len(payload) if kind == 0 and number == 1 else 0
                    if kind == 1 and flags & frames.END_STREAM:
                        ended.add(number)
        assert size > 60 * 50_000
        await trio.testing.wait_all_tasks_blocked(0.02)
        assert connection.streams == {}
