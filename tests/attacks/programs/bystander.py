"""A client that calls while others attack: `python bystander.py MESH_SOCKET SERVICE`.

Calls plugin.echo directly and through the gateway, 50 times a second each, and opens a new channel
to SERVICE once a second, in addition to one that it keeps. For each line on stdin it writes what it
has measured since the last one, as JSON. Imports nothing of `tests`, see the package.
"""

import json
import os
import resource
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[3] / "examples" / "echo-plugin"))
import purerpc
import trio
from echo.v1.echo_grpc import EchoServiceStub
from echo.v1.echo_pb2 import EchoRequest

from meshtrio import mesh
from meshtrio.client.channel import connect_to

PERIOD = 0.02
CALL_TIMEOUT = 30.0
"""Seconds after which a call counts as failed; until then it counts as slow."""


class Bystander:
    def __init__(self, socket, watched):
        self.socket = socket
        self.watched = watched
        self.seconds = {}
        self.failed = {}
        self.under_way = {}
        self.cpu = time.process_time()
        self.since = time.monotonic()

    async def measure(self, way, call):
        key = object()
        began = self.under_way[key] = time.monotonic()
        try:
            with trio.fail_after(CALL_TIMEOUT):
                await call()
        except (purerpc.RpcFailedError, OSError, trio.TooSlowError) as exc:
            self.failed.setdefault(way, []).append(str(exc))
        finally:
            del self.under_way[key]
        self.seconds.setdefault(way, []).append(time.monotonic() - began)

    async def calls(self, way, channel):
        stub = channel.stub(EchoServiceStub)
        while True:
            began = time.monotonic()
            await self.measure(way, lambda: stub.Echo(EchoRequest(message="x")))
            await trio.sleep(max(0.001, PERIOD - (time.monotonic() - began)))

    async def direct(self):
        async with mesh.connect("plugin.echo", mesh_socket=self.socket) as channel:
            await self.calls("direct", channel)

    async def kept(self):
        """A channel that is not called: what it costs is in the CPU time."""
        async with mesh.connect(self.watched, mesh_socket=self.socket):
            await trio.sleep_forever()

    async def gateway(self):
        target = [("x-mesh-target", "plugin.echo")]
        async with connect_to(f"unix:{self.socket}", metadata=target) as channel:
            await self.calls("gateway", channel)

    async def new_channels(self):
        async def connect_and_call():
            async with mesh.connect(self.watched, mesh_socket=self.socket) as channel:
                await channel.stub(EchoServiceStub).Echo(EchoRequest(message="x"))

        while True:
            await self.measure("new channel", connect_and_call)
            await trio.sleep(1)

    def report(self):
        now, cpu = time.monotonic(), time.process_time()
        for began in self.under_way.values():
            # What has not been answered yet is slow, too.
            if now - began > 1.0:
                self.seconds.setdefault("waiting", []).append(now - began)
        found = {
            "seconds": self.seconds,
            "failed": {way: [len(texts), texts[0]] for way, texts in self.failed.items()},
            "cpu": (cpu - self.cpu) / (now - self.since),
        }
        self.seconds, self.failed, self.cpu, self.since = {}, {}, cpu, now
        return json.dumps(found)

    async def commands(self, scope):
        async with trio.lowlevel.FdStream(os.dup(0)) as lines:
            while await lines.receive_some(100):
                print(self.report(), flush=True)
        scope.cancel()


async def main(socket, watched):
    bystander = Bystander(socket, watched)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(bystander.direct)
        nursery.start_soon(bystander.gateway)
        nursery.start_soon(bystander.kept)
        nursery.start_soon(bystander.new_channels)
        await bystander.commands(nursery.cancel_scope)


if __name__ == "__main__":
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    trio.run(main, sys.argv[1], sys.argv[2])
