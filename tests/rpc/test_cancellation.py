"""Cancellation at each checkpoint, on either side: nothing leaks, and the next call works."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import purerpc
import pytest
import trio
from echo.v1.echo_pb2 import EchoReply, EchoRequest, RepeatRequest

from meshtrio.http2.limits import Limits
from meshtrio.rpc.server_call import ServerCall
from tests.support.connection_pairs import (
    CallbackServicer,
    ConnectionPair,
    connect_pair,
    echo_reply,
    echo_request,
    echo_requests,
)

pytestmark = pytest.mark.usefixtures("sleeping_and_polling")
LARGE = "x" * 300_000
STEPS = 60
"""More than any scenario takes: the last ones run to their ends."""


class CancelAtStep(trio.abc.Instrument):
    """Cancels a scope when its task is about to take its `step`-th step.

    `find` gives task and scope, as soon as they are there.
    """

    def __init__(
        self,
        step: int,
        find: Callable[[], tuple[trio.lowlevel.Task | None, trio.CancelScope | None]],
    ) -> None:
        self._left = step
        self._find = find

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        wanted, scope = self._find()
        if task is wanted:
            self._left -= 1
            if self._left == 0 and scope is not None:
                scope.cancel()

    def __enter__(self) -> None:
        trio.lowlevel.add_instrument(self)

    def __exit__(self, *_: object) -> None:
        trio.lowlevel.remove_instrument(self)


async def echo(message: EchoRequest) -> EchoReply:
    await trio.lowlevel.checkpoint()
    return echo_reply(message.message)


async def repeat(message: RepeatRequest) -> AsyncIterator[EchoReply]:
    for _ in range(message.count):
        yield echo_reply(message.message)


async def join(messages: AsyncIterator[EchoRequest]) -> EchoReply:
    return echo_reply(" ".join([message.message async for message in messages]))


async def chat(messages: AsyncIterator[EchoRequest]) -> AsyncIterator[EchoReply]:
    async for message in messages:
        yield echo_reply(message.message)


ALL = CallbackServicer(Echo=echo, Repeat=repeat, Join=join, Chat=chat)


async def unary(stub: Any) -> None:
    assert (await stub.Echo(echo_request(LARGE))).message == LARGE


async def server_stream(stub: Any) -> None:
    replies = [r async for r in stub.Repeat(RepeatRequest(message=LARGE, count=3))]
    assert len(replies) == 3


async def client_stream(stub: Any) -> None:
    assert len((await stub.Join(echo_requests(LARGE, LARGE))).message) == 2 * len(LARGE) + 1


async def both_stream(stub: Any) -> None:
    async with stub.Chat() as call:
        for _ in range(2):
            await call.send_message(echo_request(LARGE))
            assert (await call.receive_message()).message == LARGE
        await call.close()
        assert await call.receive_message() is None


SCENARIOS = [unary, server_stream, client_stream, both_stream]
# Narrow, so that sending and receiving have to wait.
NARROW = Limits(stream_window=65_535, connection_window=65_535)


def tasks() -> int:
    return int(trio.lowlevel.current_statistics().tasks_living)


async def assert_clean(pair: ConnectionPair, living: int) -> None:
    await pair.wait_until_idle()
    pair.assert_nothing_left()
    assert tasks() == living
    assert (await pair.stub.Echo(echo_request("next"))).message == "next"


@pytest.mark.parametrize("scenario", SCENARIOS)
async def test_the_caller_is_cancelled(scenario: Callable[[Any], Awaitable[None]]) -> None:
    finished, caller = 0, trio.lowlevel.current_task()
    async with connect_pair(ALL, server_limits=NARROW, client_limits=NARROW) as pair:
        await pair.stub.Echo(echo_request("first"))
        await pair.wait_until_idle()
        living = tasks()
        for step in range(1, STEPS):
            scope = trio.CancelScope()
            with CancelAtStep(step, lambda scope=scope: (caller, scope)), scope:
                await scenario(pair.stub)
                finished += 1
            await assert_clean(pair, living)
    assert 0 < finished < STEPS - 1


@pytest.mark.parametrize("scenario", SCENARIOS)
async def test_the_handler_is_cancelled(
    scenario: Callable[[Any], Awaitable[None]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A handler that is cancelled at any step, as by a deadline, gives its caller a status."""
    finished = 0
    handling: list[tuple[trio.lowlevel.Task, ServerCall]] = []
    run = ServerCall.run

    async def noted(call: ServerCall, scope: trio.CancelScope) -> bool:
        handling.append((trio.lowlevel.current_task(), call))
        return await run(call, scope)

    monkeypatch.setattr(ServerCall, "run", noted)

    def find() -> tuple[trio.lowlevel.Task | None, trio.CancelScope | None]:
        if not handling:
            return None, None
        task, call = handling[-1]
        return task, call._stream.cancel_on_error

    async with connect_pair(ALL, server_limits=NARROW, client_limits=NARROW) as pair:
        await pair.stub.Echo(echo_request("first"))
        await pair.wait_until_idle()
        living = tasks()
        for step in range(1, STEPS):
            handling.clear()
            with CancelAtStep(step, find), contextlib.suppress(purerpc.DeadlineExceededError):
                await scenario(pair.stub)
                finished += 1
            await assert_clean(pair, living)
    assert 0 < finished < STEPS - 1
