"""What a channel counts: calls, however many attempts each takes, that end once."""

from __future__ import annotations

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
from meshtrio.client.interceptors import ClientCall
from meshtrio.discovery.endpoint import Endpoint, ExitInfo
from tests.support.connection_pairs import CallbackServicer, echo_request
from tests.support.failing_servicers import (
    HEDGING_POLICY,
    RETRY_POLICY,
    FailingHandlers,
    connect_to_servicers,
    make_failing_servicer,
    make_method_config,
)
from tests.support.failing_servicers import unavailable_errors as failures
from tests.support.servers import FakeResolver, serve_on_socket

Counts = tuple[int, int, int]


def calls(channel: Channel) -> Counts:
    return (
        channel.call_counters.started,
        channel.call_counters.succeeded,
        channel.call_counters.failed,
    )


def attempts(channel: Channel) -> Counts:
    (connection,) = channel.picker.endpoints[0].subchannel.connections
    found = connection.statistics().calls
    return found.started, found.succeeded, found.failed


@pytest.mark.parametrize("method", ["unary", "stream"])
async def test_a_call_that_is_made_again_is_one(method: str, short_dir: Path) -> None:
    found = FailingHandlers(failures(2))
    async with connect_to_servicers(
        short_dir, make_method_config(retryPolicy=RETRY_POLICY), make_failing_servicer(found)
    ) as channel:
        stub = channel.stub(EchoServiceStub)
        if method == "unary":
            await stub.Echo(echo_request("hi"))
        else:
            assert len([each async for each in stub.Repeat(RepeatRequest(count=1))]) == 1
        assert (calls(channel), attempts(channel)) == ((1, 1, 0), (3, 1, 2))
        (connection,) = channel.picker.endpoints[0].subchannel.connections
        assert connection.statistics().messages == (3, 1)


async def test_a_hedged_call_is_one(short_dir: Path) -> None:
    found = FailingHandlers(failures(2))
    async with connect_to_servicers(
        short_dir, make_method_config(hedgingPolicy=HEDGING_POLICY), make_failing_servicer(found)
    ) as channel:
        await channel.stub(EchoServiceStub).Echo(echo_request("hi"))
        assert (calls(channel), attempts(channel)) == ((1, 1, 0), (3, 1, 2))


async def test_a_call_is_counted_while_it_waits_for_an_endpoint() -> None:
    async with open_channel("x", FakeResolver()) as channel, trio.open_nursery() as nursery:
        nursery.start_soon(channel.stub(EchoServiceStub).Echo, echo_request("hi"))
        await trio.testing.wait_all_tasks_blocked()
        assert calls(channel) == (1, 0, 0)
        assert channel.call_counters.last_started > 0
        nursery.cancel_scope.cancel()
    assert calls(channel) == (1, 0, 1)


async def test_what_an_interceptor_makes_of_it_counts(short_dir: Path) -> None:
    @asynccontextmanager
    async def refusing(call: ClientCall) -> AsyncIterator[None]:
        yield
        raise purerpc.AbortedError("no")

    feed = FakeResolver()
    path = short_dir / "a"
    feed.set(Endpoint("a", f"unix:{path}"))
    async with serve_on_socket(path), open_channel("x", feed, interceptors=[refusing]) as channel:
        with pytest.raises(purerpc.AbortedError):
            await channel.stub(EchoServiceStub).Echo(echo_request("hi"))
        assert (calls(channel), attempts(channel)) == ((1, 0, 1), (1, 1, 0))


async def test_a_call_that_is_dropped_or_left_has_failed(short_dir: Path) -> None:
    async def chat(messages: Any) -> Any:
        async for message in messages:
            yield message

    async with connect_to_servicers(short_dir, {}, CallbackServicer(Chat=chat)) as channel:
        stub = channel.stub(EchoServiceStub)
        call = await stub.Chat()
        await call.send_message(EchoRequest(message="x"))
        assert calls(channel) == (1, 0, 0)
        dropped = [call]
        del call
        with pytest.warns(ResourceWarning, match="Chat to x: open> was dropped"):
            dropped.clear()
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
    feed, path = FakeResolver(), short_dir / "a"
    async with open_channel("x", feed) as channel:
        await trio.testing.wait_all_tasks_blocked()
        for number in range(20):
            feed.set(Endpoint(str(number), f"unix:{path}"))
            feed.set(departures=(ExitInfo(str(number), "it had to"),))
        assert channel.trace_node.events_logged == 40
        events = [
            event.description.removeprefix(f"unix:{path} ") for event in channel.trace_node.events
        ]
        assert events[-2:] == ["added", "removed: it had to"]
        assert len(events) < 40
