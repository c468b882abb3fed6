"""Calls the plugins of a shop all the time, by channels of its own and through the gateway.

It calls `plugin.catalog`, which answers, `plugin.payments`, which fails half of its calls,
`plugin.mailer`, whose mesh has given up on it, and `billing`, which nobody serves.
"""

import os
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
from meshtrio.client.channel import connect_to
from meshtrio.contract import MESH_SOCKET, TARGET_METADATA_KEY

PAUSE = 0.1


async def echo(stub):
    await stub.Echo(EchoRequest(message="a book"))


async def slow(stub):
    await stub.Slow(SlowRequest(message="a search", seconds=0.3))


async def repeat(stub):
    async for _ in stub.Repeat(RepeatRequest(message="again", count=3)):
        pass


DIRECT = (("plugin.catalog", slow), ("plugin.catalog", repeat), ("plugin.payments", echo))
BY_GATEWAY = (
    ("plugin.catalog", echo),
    ("plugin.payments", echo),
    ("plugin.mailer", echo),
    ("billing", echo),
)


async def call(connecting, way):
    async with connecting as channel:
        stub = channel.stub(EchoServiceStub)
        while True:
            with suppress(purerpc.RpcFailedError, trio.TooSlowError), trio.fail_after(2):
                await way(stub)
            await trio.sleep(PAUSE)


async def call_directly(service, way):
    await call(mesh.connect(service), way)


async def call_by_gateway(service, way):
    metadata = [(TARGET_METADATA_KEY, service)]
    await call(connect_to(f"unix:{os.environ[MESH_SOCKET]}", metadata=metadata), way)


async def main():
    async with trio.open_nursery() as nursery:

        async def serve(*, task_status):
            await plugin.serve(EchoServicer(), task_status=task_status)
            nursery.cancel_scope.cancel()

        await nursery.start(serve)
        for service, way in DIRECT:
            nursery.start_soon(call_directly, service, way)
        for service, way in BY_GATEWAY:
            nursery.start_soon(call_by_gateway, service, way)


if __name__ == "__main__":
    trio.run(main)
