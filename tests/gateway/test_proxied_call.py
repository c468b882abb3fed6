"""What is passed on: all of a call, as it is, in both directions, and nothing after its end."""

from __future__ import annotations

import math
import os
import random
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import purerpc
import pytest
import trio
from echo.v1.echo_grpc import EchoServiceStub
from echo.v1.echo_pb2 import EchoReply, EchoRequest, RepeatRequest

from meshtrio.errors import ConnectionLostError
from meshtrio.http2 import frames
from meshtrio.http2.limits import Limits
from meshtrio.rpc.server import Server
from tests.support.connection_pairs import (
    CallbackServicer,
    echo_reply,
    echo_request,
    echo_requests,
)
from tests.support.gateways import make_echo_server, run_gateway, server_with_reflection


async def test_all_four_kinds_of_method(short_dir: Path) -> None:
    async with run_gateway(short_dir, a=make_echo_server()) as behind:
        stub = behind.channel.stub(EchoServiceStub)
        with trio.fail_after(30):
            for size in (0, 1, 100_000, 3_000_000):
                assert (await stub.Echo(echo_request("x" * size))).message == "x" * size
            repeated = stub.Repeat(RepeatRequest(message="r", count=1000))
            assert [each.message async for each in repeated] == ["r"] * 1000
            assert (await stub.Join(echo_requests("a", "b", "c"))).message == "a b c"
            assert (await stub.Join(echo_requests())).message == ""
            assert [each.message async for each in stub.Chat(echo_requests("a", "b"))] == ["a", "b"]
            async with stub.Chat() as call:
                for text in ("one", "two"):
                    await call.send_message(echo_request(text))
                    assert (await call.receive_message()).message == text
                await call.close()
                assert await call.receive_message() is None
        await behind.assert_nothing_left()


@pytest.mark.parametrize("size", [0, 1000, 4000, 5000, 100_000])
async def test_a_request_of_any_size_arrives_whole(size: int, short_dir: Path) -> None:
    """In one step if it is small and the plugin's window has room for it, or else in pieces."""
    text = "".join(random.Random(size).choices("abcdef", k=size))
    async with run_gateway(short_dir, a=make_echo_server()) as behind:
        stub = behind.channel.stub(EchoServiceStub)
        with trio.fail_after(30):
            for _ in range(3):
                assert (await stub.Echo(echo_request(text))).message == text
        await behind.assert_nothing_left()


async def test_a_small_request_waits_for_the_plugins_window(short_dir: Path) -> None:
    server = make_echo_server()
    async with run_gateway(short_dir, a=server) as behind:
        stub = behind.channel.stub(EchoServiceStub)
        replies = []

        async def call() -> None:
            replies.append((await stub.Echo(echo_request("x" * 1000))).message)

        with trio.fail_after(30):
            await call()
            (upstream,) = behind.upstream_connections()
            upstream.windows.send = 10
            async with trio.open_nursery() as nursery:
                nursery.start_soon(call)
                await trio.testing.wait_all_tasks_blocked(0.02)
                assert len(replies) == 1
                (plugin,) = (each for each in server.connections if each.streams)
                plugin._engine._outgoing.append(frames.window_update(0, 100_000))
                plugin.flush()
        assert replies == ["x" * 1000] * 2
        await behind.assert_nothing_left()


async def test_metadata_status_and_details_go_both_ways(short_dir: Path) -> None:
    seen: dict[str, Any] = {}

    async def fail(message: EchoRequest, request: Any) -> EchoReply:
        seen["metadata"] = request.custom_metadata
        request.initial_metadata = [("a", "1"), ("b-bin", b"\x00\xff")]
        request.trailing_metadata = [("c", "2"), ("c", "3"), ("d-bin", b"\x01")]
        if message.message == "fail":
            request.status_details = b"\x08\x05"
            raise purerpc.NotFoundError("näh: 100%")
        return echo_reply("ok")

    async with run_gateway(
        short_dir, a=server_with_reflection(CallbackServicer(Echo=fail))
    ) as behind:
        stub = behind.channel.stub(EchoServiceStub)
        sent = [("user", "7"), ("user", "8"), ("blob-bin", b"\x00\x01\xfe")]
        _, outcome = await stub.Echo.with_call(echo_request("x"), metadata=sent)
        assert [pair for pair in seen["metadata"] if pair in sent] == sent
        ((_, who),) = [pair for pair in seen["metadata"] if pair[0] == "x-mesh-forwarded"]
        assert who == f"uid {os.getuid()} (pid {os.getpid()})"
        assert outcome.initial_metadata == (("a", "1"), ("b-bin", b"\x00\xff"))
        assert outcome.trailing_metadata == (("c", "2"), ("c", "3"), ("d-bin", b"\x01"))
        with pytest.raises(purerpc.NotFoundError) as caught:
            await stub.Echo(echo_request("fail"))
        assert caught.value.status.status_message == "näh: 100%"
        assert caught.value.status_details == b"\x08\x05"
        assert ("d-bin", b"\x01") in caught.value.trailing_metadata
        await behind.assert_nothing_left()


async def test_compressed_messages_are_not_touched(short_dir: Path) -> None:
    seen = []

    async def compressed(message: EchoRequest, request: Any) -> EchoReply:
        seen.append((request.message_encoding, request.message_compressed))
        request.compression = "gzip"
        return echo_reply(message.message)

    async with run_gateway(
        short_dir, a=server_with_reflection(CallbackServicer(Echo=compressed))
    ) as behind:
        stub = behind.channel.stub(EchoServiceStub)
        text = "x" * 10_000
        assert (await stub.Echo(echo_request(text), compression="gzip")).message == text
    assert seen == [("gzip", True)]


async def test_a_deadline_and_a_cancellation_reach_the_handler(short_dir: Path) -> None:
    ends: list[float] = []
    begun, cancelled = trio.Event(), trio.Event()

    async def hang(message: EchoRequest, request: Any) -> EchoReply:
        ends.append(request.deadline - trio.current_time())
        begun.set()
        try:
            await trio.sleep_forever()
        finally:
            cancelled.set()

    async with run_gateway(
        short_dir, a=server_with_reflection(CallbackServicer(Echo=hang))
    ) as behind:
        stub = behind.channel.stub(EchoServiceStub)
        with trio.fail_after(30):
            with trio.move_on_after(0.3):
                await stub.Echo(echo_request("x"))
            await cancelled.wait()
            assert 0 < ends[0] < 0.31
            begun, cancelled = trio.Event(), trio.Event()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(stub.Echo, echo_request("x"))
                await begun.wait()
                nursery.cancel_scope.cancel()
            await cancelled.wait()
        await behind.assert_nothing_left()


async def test_a_reader_that_does_not_read_holds_the_writer_back(short_dir: Path) -> None:
    sent = 0

    async def flood(message: RepeatRequest) -> AsyncIterator[EchoReply]:
        nonlocal sent
        while True:
            sent += 1
            yield EchoReply(message="x" * 10_000)

    async with run_gateway(
        short_dir, a=server_with_reflection(CallbackServicer(Repeat=flood))
    ) as behind:
        stub = behind.channel.stub(EchoServiceStub)
        async with stub.Repeat(RepeatRequest()) as call:
            assert (await call.receive_message()).message
            await trio.testing.wait_all_tasks_blocked(0.05)
            # A window each of the client and the gateway, and what the kernel holds.
            assert sent * 10_000 < 4 * Limits().stream_window
            before = sent
            for _ in range(200):
                await call.receive_message()
            assert sent > before
        await behind.assert_nothing_left()


async def test_a_handler_that_does_not_read_holds_the_caller_back(short_dir: Path) -> None:
    go_on = trio.Event()
    sent = 0

    async def late(messages: AsyncIterator[EchoRequest]) -> EchoReply:
        await go_on.wait()
        return EchoReply(instance=len([each async for each in messages]))

    async def many() -> AsyncIterator[EchoRequest]:
        nonlocal sent
        for _ in range(300):
            sent += 1
            yield echo_request("x" * 10_000)

    async with run_gateway(
        short_dir, a=server_with_reflection(CallbackServicer(Join=late))
    ) as behind:
        stub = behind.channel.stub(EchoServiceStub)
        async with trio.open_nursery() as nursery:

            async def call() -> None:
                assert (await stub.Join(many())).instance == 300

            nursery.start_soon(call)
            await trio.testing.wait_all_tasks_blocked(0.05)
            assert sent * 10_000 < 4 * Limits().stream_window
            go_on.set()
        await behind.assert_nothing_left()


async def test_an_answer_may_come_before_the_request_is_over(short_dir: Path) -> None:
    async def hasty(messages: AsyncIterator[EchoRequest]) -> EchoReply:
        async for each in messages:
            raise purerpc.AlreadyExistsError(each.message)
        return echo_reply("none")

    async def endless() -> AsyncIterator[EchoRequest]:
        while True:
            yield echo_request("again")
            await trio.lowlevel.checkpoint()

    async with run_gateway(
        short_dir, a=server_with_reflection(CallbackServicer(Join=hasty))
    ) as behind:
        stub = behind.channel.stub(EchoServiceStub)
        with trio.fail_after(30), pytest.raises(purerpc.AlreadyExistsError, match="again"):
            await stub.Join(endless())
        await behind.assert_nothing_left()


async def test_a_plugin_that_breaks_off_is_told_as_that(short_dir: Path) -> None:
    begun = trio.Event()

    async def hang(message: EchoRequest) -> EchoReply:
        begun.set()
        await trio.sleep_forever()

    async with run_gateway(short_dir) as behind:
        server = server_with_reflection(CallbackServicer(Echo=hang))
        async with behind.serve_endpoint("a", server), trio.open_nursery() as nursery:

            async def call() -> None:
                with pytest.raises(purerpc.UnavailableError):
                    await behind.channel.stub(EchoServiceStub).Echo(echo_request("x"))

            nursery.start_soon(call)
            await begun.wait()
            for connection in server.connections:
                connection.transport.close()
        await behind.assert_nothing_left()


async def test_a_caller_that_breaks_off_ends_the_handler(short_dir: Path) -> None:
    begun, cancelled = trio.Event(), trio.Event()

    async def hang(message: EchoRequest) -> EchoReply:
        begun.set()
        try:
            await trio.sleep_forever()
        finally:
            cancelled.set()

    async with run_gateway(
        short_dir, a=server_with_reflection(CallbackServicer(Echo=hang))
    ) as behind:

        async def call() -> None:
            with pytest.raises(ConnectionLostError):
                await behind.channel.stub(EchoServiceStub).Echo(echo_request("x"))

        with trio.fail_after(30):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(call)
                await begun.wait()
                for connection in behind.server.connections:
                    connection.transport.close()
            await cancelled.wait()
        await behind.assert_nothing_left()


async def test_a_call_that_is_refused_is_made_again(short_dir: Path) -> None:
    """A server that goes away lets go of what it has not begun, and the gateway brings it on."""
    one_at_a_time = Limits(max_concurrent_streams=1)
    begun, go_on = trio.Event(), trio.Event()
    answered = []

    async def slow(message: EchoRequest) -> EchoReply:
        begun.set()
        await go_on.wait()
        return echo_reply(message.message)

    async with run_gateway(short_dir, {"a": ["echo.v1.EchoService"]}) as behind:
        first = Server(CallbackServicer(Echo=slow), limits=one_at_a_time)
        async with behind.serve_endpoint("a", first), trio.open_nursery() as nursery:

            async def call(text: str) -> None:
                found = await behind.channel.stub(EchoServiceStub).Echo(echo_request(text))
                answered.append(found.message)

            nursery.start_soon(call, "first")
            await begun.wait()
            nursery.start_soon(call, "second")
            await trio.testing.wait_all_tasks_blocked(0.01)
            async with behind.serve_endpoint("a", make_echo_server()):
                for connection in first.connections:
                    nursery.start_soon(connection.drain)
                with trio.fail_after(30):
                    while "second" not in answered:
                        await trio.lowlevel.checkpoint()
                assert answered == ["second"]
                go_on.set()
        assert sorted(answered) == ["first", "second"]


@pytest.mark.parametrize("seed", range(5))
async def test_many_calls_of_all_kinds_at_once_with_some_given_up(
    seed: int, short_dir: Path
) -> None:
    rng = random.Random(seed)
    async with run_gateway(short_dir, a=make_echo_server()) as behind:
        stub = behind.channel.stub(EchoServiceStub)

        async def one(kind: int, size: int, count: int, patience: float) -> None:
            text = chr(97 + size % 26) * size
            with trio.move_on_after(patience):
                if kind == 0:
                    assert (await stub.Echo(echo_request(text))).message == text
                elif kind == 1:
                    found = stub.Repeat(RepeatRequest(message=text, count=count))
                    assert [each.message async for each in found] == [text] * count
                elif kind == 2:
                    joined = await stub.Join(echo_requests(*[text] * count))
                    assert joined.message == " ".join([text] * count)
                else:
                    chatted = stub.Chat(echo_requests(*[text] * count))
                    assert [each.message async for each in chatted] == [text] * count

        with trio.fail_after(20):
            for _ in range(3):
                async with trio.open_nursery() as nursery:
                    for _ in range(40):
                        patience = rng.choice([0.0, 0.005, 0.03, math.inf, math.inf])
                        size = rng.choice([0, 10, 1000, 70_000])
                        nursery.start_soon(one, rng.randrange(4), size, rng.randrange(8), patience)
        await behind.assert_nothing_left()
