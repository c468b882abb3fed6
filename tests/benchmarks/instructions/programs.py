"""The processes that are counted: `client`, `server` and `mesh`.

Run by its path, with PYTHONPATH leading to the meshtrio that is measured, which may be older than
this. `measure` starts the processes; the mesh starts its plugin, which is a `server`.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import trio
from determinism import remove_time_limits, replace_clocks

replace_clocks()  # before meshtrio is imported

from cases import CASES, MESH, Meter
from echo.v1 import echo_pb2 as pb
from echo.v1.echo_grpc import EchoServiceServicer, EchoServiceStub

PLUGIN = "echo"


# -- client --------------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def open_channel(route: str, socket: str) -> AsyncIterator[Any]:
    from meshtrio import mesh
    from meshtrio.client.channel import connect_to

    if route == MESH:
        async with mesh.connect(f"plugin.{PLUGIN}", mesh_socket=Path(socket)) as channel:
            yield channel
    else:
        async with connect_to(f"unix:{socket}") as channel:
            yield channel


async def run_case(name: str, socket: str) -> None:
    case = CASES[name]
    async with open_channel(case.route, socket) as channel:
        stub = channel.stub(EchoServiceStub)
        await stub.Slow(pb.SlowRequest())  # prepares the server
        await case.run(stub, Meter())


def run_client() -> None:
    """Run the cases whose names and sockets are read from stdin, as JSON."""
    for line in iter(sys.stdin.readline, ""):
        trio.run(run_case, *json.loads(line))


# -- server --------------------------------------------------------------------------------------


class Echo(EchoServiceServicer):
    async def Echo(self, message: pb.EchoRequest) -> pb.EchoReply:
        return pb.EchoReply(message=message.message)

    async def Slow(self, message: pb.SlowRequest) -> pb.EchoReply:
        """Prepare for a case."""
        gc.collect()
        return pb.EchoReply()

    async def Repeat(self, message: pb.RepeatRequest) -> AsyncIterator[pb.EchoReply]:
        reply = pb.EchoReply(message=message.message)
        for _ in range(message.count):
            yield reply

    async def Join(self, messages: AsyncIterator[pb.EchoRequest]) -> pb.EchoReply:
        async for message in messages:
            last = message
        return pb.EchoReply(message=last.message)

    async def Chat(self, messages: AsyncIterator[pb.EchoRequest]) -> AsyncIterator[pb.EchoReply]:
        async for message in messages:
            yield pb.EchoReply(message=message.message)


def run_server() -> None:
    """Serve on PLUGIN_SOCKET."""
    from meshtrio import plugin

    plugin.run(Echo())


# -- mesh ----------------------------------------------------------------------------------------


def replace_pidfd_open() -> None:
    """Replace pidfd_open(2), which valgrind before 3.21 does not know.

    A pipe takes the place of a pidfd: the mesh never learns that a process has exited, and none
    does as long as the benchmark counts.
    """
    write_ends = []

    def pidfd_open(pid: int, flags: int = 0) -> int:
        read_end, write_end = os.pipe()
        write_ends.append(write_end)
        return read_end

    os.pidfd_open = pidfd_open


async def run_mesh(folder: str, *command: str) -> None:
    """Serve a mesh with one plugin, and print the plugin's pid when it is ready."""
    from meshtrio import mesh
    from meshtrio.config import MeshConfig, PluginConfig
    from meshtrio.config.liveness import Liveness
    from meshtrio.supervisor import events

    def on_event(event: events.LifecycleEvent) -> None:
        if isinstance(event, events.Ready):
            print(event.pid, flush=True)

    plugin = PluginConfig(
        PLUGIN,
        command,
        services=["echo.v1.EchoService"],  # Listing them by reflection would take too long.
        ready_timeout=600.0,
        liveness=Liveness(interval=0.0),  # Health checks come by the clock.
    )
    config = MeshConfig([plugin], runtime_dir=Path(folder))
    async with trio.open_nursery() as nursery:
        running = await nursery.start(mesh.main, config)
        running.subscribe(on_event)


def main() -> None:
    kind, *arguments = sys.argv[1:]
    remove_time_limits()
    if kind == "client":
        run_client()
    elif kind == "server":
        run_server()
    elif kind == "mesh":
        replace_pidfd_open()
        trio.run(run_mesh, *arguments)


if __name__ == "__main__":
    main()
