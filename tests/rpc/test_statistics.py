"""The statistics of both ends of a connection, for every kind of call and every way to end."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Awaitable, Callable
from typing import Any

import purerpc
import pytest
import trio
from echo.v1.echo_pb2 import EchoReply, EchoRequest, RepeatRequest

from meshtrio.errors import CallRefusedError
from meshtrio.http2.limits import Limits
from meshtrio.rpc.connection import Connection
from tests.support.connection_pairs import (
    CallbackServicer,
    ConnectionPair,
    connect_pair,
    echo_reply,
    echo_request,
    echo_requests,
)
from tests.support.handlers import handle_chat, handle_join, handle_repeat

Counts = tuple[int, int, int]


async def echo(message: EchoRequest) -> EchoReply:
    if message.message == "hang":
        await trio.sleep_forever()
    if message.message == "fail":
        raise purerpc.NotFoundError("no")
    return echo_reply(message.message)


ALL = CallbackServicer(Echo=echo, Repeat=handle_repeat, Join=handle_join, Chat=handle_chat)


def calls(end: Connection) -> Counts:
    tally = end.statistics().calls
    return tally.started, tally.succeeded, tally.failed


def streams(end: Connection) -> Counts:
    tally = end.statistics().streams
    return tally.started, tally.succeeded, tally.failed


async def call_echo(pair: ConnectionPair, text: str) -> None:
    await pair.stub.Echo(echo_request(text))


async def cancel(pair: ConnectionPair) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(call_echo, pair, "hang")
        await pair.wait_until_idle()
        nursery.cancel_scope.cancel()


async def call_repeat(pair: ConnectionPair) -> None:
    assert len([each async for each in pair.stub.Repeat(RepeatRequest(count=3))]) == 3


async def leave_early(pair: ConnectionPair) -> None:
    async with pair.stub.Chat() as talk:
        await talk.send_message(echo_request("a"))
        await talk.receive_message()


async def call_join(pair: ConnectionPair) -> None:
    await pair.stub.Join(echo_requests("a", "b"))


async def call_chat(pair: ConnectionPair) -> None:
    async with pair.stub.Chat() as talk:
        for text in ("a", "b"):
            await talk.send_message(echo_request(text))
            await talk.receive_message()
        await talk.close()
        assert await talk.receive_message() is None


async def call_unimplemented(pair: ConnectionPair) -> None:
    await pair.stub.Slow(echo_request("x"))


@pytest.mark.parametrize(
    ("make", "ended", "sent", "received"),
    [
        (lambda pair: call_echo(pair, "x"), (1, 1, 0), 1, 1),
        (lambda pair: call_echo(pair, "fail"), (1, 0, 1), 1, 0),
        (call_unimplemented, (1, 0, 1), 1, 0),
        (cancel, (1, 0, 1), 1, 0),
        (call_repeat, (1, 1, 0), 1, 3),
        (call_join, (1, 1, 0), 2, 1),
        (call_chat, (1, 1, 0), 2, 2),
    ],
    ids=["echo", "fail", "unimplemented", "cancel", "repeat", "join", "chat"],
)
async def test_one_call_of_each_kind(
    make: Callable[[ConnectionPair], Awaitable[None]], ended: Counts, sent: int, received: int
) -> None:
    async with connect_pair(ALL) as pair:
        for number in (1, 2):
            with contextlib.suppress(purerpc.RpcFailedError):
                await make(pair)
            await pair.wait_until_idle()
            wanted = tuple(number * each for each in ended)
            assert calls(pair.client) == calls(pair.server) == wanted
            assert pair.client.statistics().messages == (number * sent, number * received)
            assert pair.server.statistics().messages == (number * received, number * sent)
        pair.assert_nothing_left()


async def test_streams_are_counted_by_their_end_and_calls_by_their_status() -> None:
    async with connect_pair(ALL) as pair:
        await call_echo(pair, "x")
        with pytest.raises(purerpc.NotFoundError):
            await call_echo(pair, "fail")
        await cancel(pair)
        await leave_early(pair)
        await pair.wait_until_idle()
        assert calls(pair.client) == calls(pair.server) == (4, 1, 3)
        assert streams(pair.client) == streams(pair.server) == (4, 2, 2)


async def test_a_call_under_way_is_neither() -> None:
    async with connect_pair(ALL) as pair, trio.open_nursery() as nursery:
        before = time.time()
        nursery.start_soon(call_echo, pair, "hang")
        await pair.wait_until_idle()
        for end in (pair.client, pair.server):
            assert calls(end) == streams(end) == (1, 0, 0)
            assert before <= end.statistics().calls.last_started <= time.time()
        nursery.cancel_scope.cancel()


async def test_a_connection_that_breaks_fails_what_it_has() -> None:
    async with connect_pair(ALL) as pair:
        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(fails, pair.stub.Echo)
            await pair.wait_until_idle()
            pair.break_connection()
        await pair.wait_until_idle()
        for end in (pair.client, pair.server):
            tally = end.final_calls()
            assert (tally.started, tally.succeeded, tally.failed) == (3, 0, 3)


async def fails(method: Any) -> None:
    with pytest.raises(purerpc.UnavailableError):
        await method(echo_request("hang"))


async def test_what_a_server_refuses_has_failed_there() -> None:
    async with connect_pair(ALL, server_limits=Limits(max_concurrent_streams=1)) as pair:
        await pair.wait_until_idle()
        pair.client.peer_settings.max_concurrent_streams = 100
        async with trio.open_nursery() as nursery:
            nursery.start_soon(pair.stub.Echo, echo_request("hang"))
            await pair.wait_until_idle()
            with pytest.raises(CallRefusedError):
                await call_echo(pair, "x")
            # The engine refuses both attempts (gRFC A6); no handler table is consulted.
            assert calls(pair.server) == (1, 0, 0)
            assert calls(pair.client)[2] == 2
            nursery.cancel_scope.cancel()
