"""A plugin that calls others all the time, in each way there is: the load of a mesh."""

import sys
from contextlib import suppress
from pathlib import Path

import purerpc
import trio

sys.path.insert(0, str(Path(__file__).parents[2] / "examples" / "echo-plugin"))
from echo.v1.echo_grpc import EchoServiceStub
from echo.v1.echo_pb2 import EchoRequest, RepeatRequest, SlowRequest
from echo_plugin import EchoServicer

from meshtrio import mesh, plugin

PAUSE = 0.03


async def unary(stub, word):
    await stub.Echo(EchoRequest(message=word))


async def slow(stub, seconds):
    await stub.Slow(SlowRequest(seconds=float(seconds)))


async def repeat(stub, count):
    async for _ in stub.Repeat(RepeatRequest(message="again", count=int(count))):
        pass


async def chat(stub, word):
    async def words():
        for _ in range(3):
            yield EchoRequest(message=word)

    async for _ in stub.Chat(words()):
        pass


WAYS = (
    ("steady", unary, "hello"),
    ("steady", repeat, "5"),
    ("steady", chat, "so"),
    ("steady", slow, "0.3"),  # which is hedged
    ("victim", unary, "hello"),
    ("troubled", unary, "flaky"),  # which is tried again
    ("troubled", unary, "wrong"),
    ("troubled", slow, "1.2"),
    ("refusing", unary, "hello"),  # which it does not look at
)


async def call(name, way, what):
    async with mesh.connect(f"plugin.{name}") as channel:
        stub = channel.stub(EchoServiceStub)
        while True:
            with suppress(purerpc.RpcFailedError):  # as some of them are to end
                await way(stub, what)
            await trio.sleep(PAUSE)


async def main():
    async with trio.open_nursery() as calls:

        async def serve(*, task_status):
            await plugin.serve(EchoServicer(), task_status=task_status)
            calls.cancel_scope.cancel()

        await calls.start(serve)
        for way in WAYS:
            calls.start_soon(call, *way)


if __name__ == "__main__":
    trio.run(main)
