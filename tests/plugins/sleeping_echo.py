"""A plugin whose `Slow` sleeps without a word, for calls that are given up by the thousand."""

import sys
from collections.abc import AsyncIterator
from pathlib import Path

import trio

sys.path.insert(0, str(Path(__file__).parents[2] / "examples" / "echo-plugin"))
from echo.v1.echo_grpc import EchoServiceServicer
from echo.v1.echo_pb2 import EchoReply, EchoRequest, SlowRequest

from meshtrio import plugin


class Sleeping(EchoServiceServicer):
    async def Echo(self, request: EchoRequest) -> EchoReply:
        return EchoReply(message=request.message)

    async def Slow(self, request: SlowRequest) -> EchoReply:
        await trio.sleep(request.seconds)
        return EchoReply(message=request.message)

    async def Chat(self, requests: AsyncIterator[EchoRequest]) -> AsyncIterator[EchoReply]:
        async for request in requests:
            yield EchoReply(message=request.message)


plugin.run(Sleeping())
