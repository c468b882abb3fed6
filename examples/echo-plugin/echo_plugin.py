"""The echo plugin: an ordinary purerpc servicer, run by meshtrio."""

import os
from collections.abc import AsyncIterator

import trio
from echo.v1.echo_grpc import EchoServiceServicer
from echo.v1.echo_pb2 import EchoReply, EchoRequest, RepeatRequest, SlowRequest

from meshtrio import plugin

INSTANCE = int(os.environ.get("PLUGIN_INSTANCE", "0"))


def reply(message: str) -> EchoReply:
    return EchoReply(message=message, instance=INSTANCE, pid=os.getpid())


class EchoServicer(EchoServiceServicer):
    async def Echo(self, message: EchoRequest) -> EchoReply:
        return reply(message.message)

    async def Slow(self, message: SlowRequest) -> EchoReply:
        try:
            await trio.sleep(message.seconds)
        except trio.Cancelled:
            print(f"cancelled while sleeping for {message.message!r}", flush=True)
            raise
        return reply(message.message)

    async def Repeat(self, message: RepeatRequest) -> AsyncIterator[EchoReply]:
        for _ in range(message.count):
            yield reply(message.message)

    async def Join(self, messages: AsyncIterator[EchoRequest]) -> EchoReply:
        return reply(" ".join([message.message async for message in messages]))

    async def Chat(self, messages: AsyncIterator[EchoRequest]) -> AsyncIterator[EchoReply]:
        async for message in messages:
            yield reply(message.message)


if __name__ == "__main__":
    plugin.run(EchoServicer())
