"""Answers that a server gives at the caller's deadline, a moment before the caller's own clock.

Servers and callers measure the same deadline by clocks of their own, so either may be first. In
both cases `trio.move_on_after` moves on and does not raise.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import purerpc
import pytest
import trio
from echo.v1.echo_grpc import EchoServiceStub
from echo.v1.echo_pb2 import EchoReply, EchoRequest

from meshtrio.client.channel import Channel, open_channel
from meshtrio.grpc.service_config import parse_service_config
from meshtrio.http2.errors import ErrorCode
from meshtrio.rpc.server import Server
from tests.support.connection_pairs import CallbackServicer, echo_request, echo_requests
from tests.support.failing_servicers import HEDGING_POLICY, RETRY_POLICY, make_method_config
from tests.support.gateways import run_gateway
from tests.support.handlers import repeat_request
from tests.support.servers import FakeResolver, serve_on_socket, unix_endpoint

EARLY = 0.002
"""Seconds before the deadline at which the server answers."""


def answer_deadline_exceeded(call: Any) -> None:
    raise purerpc.DeadlineExceededError("the server's clock is there")


def answer_cancelled(call: Any) -> None:
    raise purerpc.CancelledError("the server's context is done")


def reset_with_cancel(call: Any) -> None:
    call._stream.reset(ErrorCode.CANCEL)


ANSWERS = pytest.mark.parametrize(
    "answer", [answer_deadline_exceeded, answer_cancelled, reset_with_cancel]
)


def early(answer: Callable[[Any], None]) -> CallbackServicer:
    """A servicer whose handlers end their calls just before the deadline."""

    async def end(call: Any) -> None:
        await trio.sleep_until(call.deadline - EARLY)
        answer(call)

    async def echo(message: Any, request: Any) -> EchoReply:
        await end(request)
        return EchoReply()

    async def repeat(message: Any, request: Any) -> AsyncIterator[EchoReply]:
        yield EchoReply(message="first")
        await end(request)

    async def join(messages: AsyncIterator[EchoRequest], request: Any) -> EchoReply:
        await end(request)
        return EchoReply()

    return CallbackServicer(Echo=echo, Repeat=repeat, Join=join)


async def unary(stub: Any) -> None:
    await stub.Echo(echo_request("x"))


async def server_stream(stub: Any) -> None:
    async for reply in stub.Repeat(repeat_request(5)):
        assert reply.message == "first"


async def client_stream(stub: Any) -> None:
    await stub.Join(echo_requests("a", "b"))


async def one_by_one(stub: Any) -> None:
    """Each message within a scope of its own, inside the one that the call was opened in."""
    async with stub.Repeat(repeat_request(5)) as call:
        await call.receive_message()
        with trio.fail_after(10):
            await call.receive_message()


CALLS = pytest.mark.parametrize("call", [unary, server_stream, client_stream, one_by_one])


async def moves_on(stub: Any, call: Callable[[Any], Any]) -> None:
    with trio.move_on_after(0.05) as scope:
        await call(stub)
    assert scope.cancelled_caught


@ANSWERS
@CALLS
async def test_move_on_after_moves_on(
    answer: Callable[[Any], None], call: Callable[[Any], Any], short_dir: Path
) -> None:
    feed = FakeResolver()
    feed.set(unix_endpoint(short_dir / "a"))
    async with (
        serve_on_socket(short_dir / "a", Server(early(answer))),
        open_channel("a", feed) as channel,
    ):
        await moves_on(channel.stub(EchoServiceStub), call)


@ANSWERS
@CALLS
async def test_through_the_gateway(
    answer: Callable[[Any], None], call: Callable[[Any], Any], short_dir: Path
) -> None:
    services = {"a": ["echo.v1.EchoService"]}
    async with run_gateway(short_dir, services, a=Server(early(answer))) as behind:
        await moves_on(behind.channel.stub(EchoServiceStub), call)
        await behind.assert_nothing_left()


@pytest.mark.parametrize(
    "config",
    [
        {
            "retryPolicy": {
                **RETRY_POLICY,
                "retryableStatusCodes": ["DEADLINE_EXCEEDED", "CANCELLED"],
            }
        },
        {"hedgingPolicy": HEDGING_POLICY},
    ],
    ids=["retried", "hedged"],
)
@ANSWERS
async def test_whatever_the_service_config_says(
    answer: Callable[[Any], None], config: dict[str, Any], short_dir: Path
) -> None:
    feed = FakeResolver()
    feed.set(unix_endpoint(short_dir / "a"))
    async with (
        serve_on_socket(short_dir / "a", Server(early(answer))),
        open_channel(
            "a", feed, service_config=parse_service_config(make_method_config(**config))
        ) as channel,
    ):
        await moves_on(channel.stub(EchoServiceStub), unary)


async def test_fail_after_raises_its_own_error(short_dir: Path) -> None:
    feed = FakeResolver()
    feed.set(unix_endpoint(short_dir / "a"))
    async with (
        serve_on_socket(short_dir / "a", Server(early(answer_deadline_exceeded))),
        open_channel("a", feed) as channel,
    ):
        with pytest.raises(trio.TooSlowError):
            with trio.fail_after(0.05):
                await channel.stub(EchoServiceStub).Echo(echo_request("x"))


async def test_many_at_once(short_dir: Path) -> None:
    """Twenty in flight, three hundred in all: none raises."""
    feed = FakeResolver()
    feed.set(unix_endpoint(short_dir / "a"))
    async with (
        serve_on_socket(short_dir / "a", Server(early(answer_deadline_exceeded))),
        open_channel("a", feed) as channel,
        trio.open_nursery() as nursery,
    ):
        for _ in range(20):
            nursery.start_soon(time_out_repeatedly, channel)


async def time_out_repeatedly(channel: Channel) -> None:
    stub = channel.stub(EchoServiceStub)
    for _ in range(15):
        await moves_on(stub, unary)


async def test_a_status_long_before_the_deadline_is_raised_at_once(short_dir: Path) -> None:
    """It has another cause, such as the deadline of a call further on."""

    async def echo(message: Any) -> EchoReply:
        raise purerpc.DeadlineExceededError("of a call further on")

    feed = FakeResolver()
    feed.set(unix_endpoint(short_dir / "a"))
    async with (
        serve_on_socket(short_dir / "a", Server(CallbackServicer(Echo=echo))),
        open_channel("a", feed) as channel,
    ):
        with trio.fail_after(5), pytest.raises(purerpc.DeadlineExceededError, match="further on"):
            await channel.stub(EchoServiceStub).Echo(echo_request("x"))


async def test_another_status_just_before_the_deadline_is_raised(
    short_dir: Path, autojump_clock: trio.testing.MockClock
) -> None:
    async def echo(message: Any, request: Any) -> EchoReply:
        await trio.sleep_until(request.deadline - EARLY)
        raise purerpc.NotFoundError("nothing there")

    feed = FakeResolver()
    feed.set(unix_endpoint(short_dir / "a"))
    async with (
        serve_on_socket(short_dir / "a", Server(CallbackServicer(Echo=echo))),
        open_channel("a", feed) as channel,
    ):
        stub = channel.stub(EchoServiceStub)
        assert await channel.is_reachable()
        # The clock stands still while either side has something to do.
        with trio.move_on_after(0.05) as scope:
            with pytest.raises(purerpc.NotFoundError, match="nothing there"):
                await stub.Echo(echo_request("x"))
        assert not scope.cancelled_caught
