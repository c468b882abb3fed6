"""What a channel counts: calls, however many attempts each takes, that end once."""

from __future__ import annotations

import gc
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import purerpc
import pytest
import trio
from echo.v1.echo_grpc import EchoServiceStub
from echo.v1.echo_pb2 import EchoRequest, RepeatRequest

from meshtrio.client.channel import Channel, open_channel
from meshtrio.client.endpoint import Departure, Endpoint
from meshtrio.client.interceptors import ClientCall
from meshtrio.rpc.tally import calls_of, messages_of
from tests.client.test_channel import Feed, serving
from tests.client.test_retrying import HEDGING, RETRY, Flaky, channel_to, flaky, method_config
from tests.client.test_retrying import unavailable as failures
from tests.rpc.pairs import Scripted, request

Counts = tuple[int, int, int]


def calls(channel: Channel) -> Counts:
    return channel.calls.started, channel.calls.succeeded, channel.calls.failed


def attempts(channel: Channel) -> Counts:
    (connection,) = channel.subchannels[0].link.connections
    found = calls_of(connection)
    return found.started, found.succeeded, found.failed


@pytest.mark.parametrize("method", ["unary", "stream"])
async def test_a_call_that_is_made_again_is_one(method: str, short_dir: Path) -> None:
    found = Flaky(failures(2))
    async with channel_to(short_dir, method_config(retryPolicy=RETRY), flaky(found)) as channel:
        stub = channel.stub(EchoServiceStub)
        if method == "unary":
            await stub.Echo(request("hi"))
        else:
            assert len([each async for each in stub.Repeat(RepeatRequest(count=1))]) == 1
        assert (calls(channel), attempts(channel)) == ((1, 1, 0), (3, 1, 2))
        (connection,) = channel.subchannels[0].link.connections
        assert messages_of(connection) == (3, 1)


async def test_a_hedged_call_is_one(short_dir: Path) -> None:
    found = Flaky(failures(2))
    async with channel_to(short_dir, method_config(hedgingPolicy=HEDGING), flaky(found)) as channel:
        await channel.stub(EchoServiceStub).Echo(request("hi"))
        assert (calls(channel), attempts(channel)) == ((1, 1, 0), (3, 1, 2))


async def test_a_call_is_counted_while_it_waits_for_an_endpoint() -> None:
    async with open_channel("x", Feed()) as channel, trio.open_nursery() as nursery:
        nursery.start_soon(channel.stub(EchoServiceStub).Echo, request("hi"))
        await trio.testing.wait_all_tasks_blocked()
        assert calls(channel) == (1, 0, 0)
        assert channel.calls.last_started > 0
        nursery.cancel_scope.cancel()
    assert calls(channel) == (1, 0, 1)


async def test_what_an_interceptor_makes_of_it_counts(short_dir: Path) -> None:
    @asynccontextmanager
    async def refusing(call: ClientCall) -> AsyncIterator[None]:
        yield
        raise purerpc.AbortedError("no")

    feed = Feed()
    path = short_dir / "a"
    feed.set(Endpoint("a", f"unix:{path}"))
    async with serving(path), open_channel("x", feed, interceptors=[refusing]) as channel:
        with pytest.raises(purerpc.AbortedError):
            await channel.stub(EchoServiceStub).Echo(request("hi"))
        assert (calls(channel), attempts(channel)) == ((1, 0, 1), (1, 1, 0))


async def test_a_call_that_is_dropped_or_left_has_failed(short_dir: Path) -> None:
    async def chat(messages: Any) -> Any:
        async for message in messages:
            yield message

    async with channel_to(short_dir, {}, Scripted(Chat=chat)) as channel:
        stub = channel.stub(EchoServiceStub)
        call = await stub.Chat()
        await call.send_message(EchoRequest(message="x"))
        assert calls(channel) == (1, 0, 0)
        del call
        gc.collect()
        await trio.testing.wait_all_tasks_blocked()
        assert calls(channel) == attempts(channel) == (1, 0, 1)
        async with stub.Chat() as call:
            await call.send_message(EchoRequest(message="x"))
        call.cancel()
        await trio.testing.wait_all_tasks_blocked()
        assert calls(channel) == attempts(channel) == (2, 0, 2)
        # One that was never begun is no call.
        stub.Chat().cancel()
        assert calls(channel) == (2, 0, 2)


async def test_what_becomes_of_endpoints_is_kept(short_dir: Path) -> None:
    feed, path = Feed(), short_dir / "a"
    async with open_channel("x", feed) as channel:
        await trio.testing.wait_all_tasks_blocked()
        for number in range(20):
            feed.set(Endpoint(str(number), f"unix:{path}"))
            feed.set(departures=(Departure(str(number), "it had to"),))
        assert channel.entry.logged == 40
        events = [event.text.removeprefix(f"unix:{path} ") for event in channel.entry.events]
        assert events[-2:] == ["is listed", "is gone: it had to"]
        assert len(events) < 40
