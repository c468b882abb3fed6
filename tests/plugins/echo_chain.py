"""An echo plugin for tests: Echo is given a word to do, and calls a second plugin if asked to."""

import gc
import os
import sys
import time
from pathlib import Path

import purerpc
import trio

sys.path.insert(0, str(Path(__file__).parents[2] / "examples" / "echo-plugin"))
from echo.v1.echo_grpc import EchoServiceServicer, EchoServiceStub
from echo.v1.echo_pb2 import EchoReply, EchoRequest

from meshtrio import mesh, plugin
from meshtrio.rpc.server_connection import ServerConnection


def left_of_deadline(request):
    timeout = request.timeout
    return "none" if timeout is None else str(timeout.total_seconds())


def open_streams():
    """Of this process, the one that asks not counted: the calls' and the engine's entries."""
    connections = [c for c in gc.get_objects() if isinstance(c, ServerConnection)]
    streams = sum(len(connection.streams) for connection in connections)
    engine = sum(connection._engine.open_stream_count for connection in connections)
    return f"{streams - 1} {engine - 1}"


class Chain(EchoServiceServicer):
    async def Echo(self, message, request):
        word, _, rest = message.message.partition(" ")
        if word == "deadline":
            return EchoReply(message=left_of_deadline(request))
        if word == "stick":
            time.sleep(3600)  # noqa: ASYNC251 - what a plugin's author should not do
        if word == "streams":
            return EchoReply(message=open_streams())
        if word == "ask-second":
            with trio.move_on_after(float(rest)):
                async with mesh.connect("plugin.second") as channel:
                    stub = channel.stub(EchoServiceStub)
                    return await stub.Echo(EchoRequest(message="deadline"))
        if word == "not-found":
            raise purerpc.NotFoundError("no such word")
        if word == "fail":
            raise RuntimeError("the secret of the handler")
        return EchoReply(message=message.message, pid=os.getpid())

    async def Slow(self, message):
        print("slow begins", flush=True)
        try:
            await trio.sleep(message.seconds)
        except trio.Cancelled:
            print("slow cancelled", flush=True)
            raise
        print("slow ends", flush=True)
        return EchoReply(message=message.message)


if __name__ == "__main__":
    plugin.run(Chain())
