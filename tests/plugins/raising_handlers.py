"""An echo plugin whose handlers raise what is no Exception, as they are told to."""

import asyncio
import atexit
import sys
import time
from pathlib import Path

import trio

sys.path.insert(0, str(Path(__file__).parents[2] / "examples" / "echo-plugin"))
from echo.v1.echo_grpc import EchoServiceServicer
from echo.v1.echo_pb2 import EchoReply

from meshtrio import plugin

ERRORS = {
    "cancelled": asyncio.CancelledError,
    "generator": GeneratorExit,
    "exit-in-order": SystemExit,
    "exit": lambda: SystemExit(7),
    "exit-with-text": lambda: SystemExit("no licence"),
    "interrupt": KeyboardInterrupt,
}


class Exiting(EchoServiceServicer):
    async def Echo(self, message):
        if message.message in ERRORS:
            raise ERRORS[message.message]()
        return EchoReply(message=message.message)

    async def Slow(self, message):
        print("slow begins", flush=True)
        await trio.sleep(message.seconds)
        return EchoReply(message=message.message)


async def beside_another_task():
    async with trio.open_nursery() as nursery:
        await nursery.start(plugin.serve, Exiting())
        nursery.start_soon(trio.sleep_forever)


if __name__ == "__main__":
    if "slowly" in sys.argv:
        atexit.register(time.sleep, 3)
    if "serve" in sys.argv:
        trio.run(beside_another_task)
    else:
        plugin.run(Exiting())
