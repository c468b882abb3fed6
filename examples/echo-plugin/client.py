"""Calls the echo plugin of a running mesh: each kind of method once, from another process.

python client.py [SERVICE]        (plugin.echo unless given; any plugin that serves echo.v1 will do)
"""

import sys
from collections.abc import AsyncIterator

import trio
from echo.v1.echo_grpc import EchoServiceStub
from echo.v1.echo_pb2 import EchoRequest, RepeatRequest, SlowRequest

from meshtrio import mesh


async def words(*texts: str) -> AsyncIterator[EchoRequest]:
    for text in texts:
        yield EchoRequest(message=text)


async def main(service: str) -> None:
    async with mesh.connect(service) as channel:
        echo = channel.stub(EchoServiceStub)

        reply = await echo.Echo(EchoRequest(message="hello"))
        print(f"Echo:   {reply.message} (from instance {reply.instance}, pid {reply.pid})")

        async for reply in echo.Repeat(RepeatRequest(message="again", count=3)):
            print(f"Repeat: {reply.message} (from instance {reply.instance})")

        reply = await echo.Join(words("one", "message", "of", "many"))
        print(f"Join:   {reply.message}")

        async for reply in echo.Chat(words("ping", "pong")):
            print(f"Chat:   {reply.message}")

        with trio.move_on_after(0.2) as scope:
            await echo.Slow(SlowRequest(message="too late", seconds=60))
        print(f"Slow:   {'cancelled, in the plugin too' if scope.cancelled_caught else 'done'}")


if __name__ == "__main__":
    trio.run(main, sys.argv[1] if sys.argv[1:] else "plugin.echo")
