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
    async def Echo(self, request: EchoRequest) -> EchoReply:
        return reply(request.message)

    async def Slow(self, request: SlowRequest) -> EchoReply:
        try:
            await trio.sleep(request.seconds)
        except trio.Cancelled:
            print(f"cancelled while sleeping for {request.message!r}", flush=True)
            raise
        return reply(request.message)

    async def Repeat(self, request: RepeatRequest) -> AsyncIterator[EchoReply]:
        for _ in range(request.count):
            yield reply(request.message)

    async def Join(self, requests: AsyncIterator[EchoRequest]) -> EchoReply:
        return reply(" ".join([request.message async for request in requests]))

    async def Chat(self, requests: AsyncIterator[EchoRequest]) -> AsyncIterator[EchoReply]:
        async for request in requests:
            yield reply(request.message)


if __name__ == "__main__":
    plugin.run(EchoServicer())
