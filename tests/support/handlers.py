"""Handlers of the four kinds of method of the echo service."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import trio
from echo.v1.echo_pb2 import EchoReply, EchoRequest, RepeatRequest

from tests.support.connection_pairs import CallbackServicer, echo_reply


async def handle_echo(message: EchoRequest) -> EchoReply:
    return echo_reply(message.message)


async def handle_repeat(message: Any) -> AsyncIterator[EchoReply]:
    for number in range(message.count):
        yield echo_reply(f"{message.message}{number}")


async def handle_join(messages: AsyncIterator[EchoRequest]) -> EchoReply:
    return echo_reply(" ".join([message.message async for message in messages]))


async def handle_chat(messages: AsyncIterator[EchoRequest]) -> AsyncIterator[EchoReply]:
    async for message in messages:
        yield echo_reply(message.message)


ECHO_SERVICER = CallbackServicer(
    Echo=handle_echo, Repeat=handle_repeat, Join=handle_join, Chat=handle_chat
)


def repeat_request(count: int) -> RepeatRequest:
    return RepeatRequest(message="r", count=count)


class CancellationRecorder:
    """A handler that waits to be cancelled, and says when it began and that it was."""

    def __init__(self) -> None:
        self.started = trio.Event()
        self.cancelled = trio.Event()

    async def __call__(self, message: Any) -> EchoReply:
        self.started.set()
        try:
            await trio.sleep_forever()
        except trio.Cancelled:
            self.cancelled.set()
            raise

    async def streaming(self, message: Any) -> AsyncIterator[EchoReply]:
        yield echo_reply("first")
        await self(message)
