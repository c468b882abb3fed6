"""Clients that call a plugin without a pause: `python -m tests.support.calling_clients COUNT`.

Each has a channel, makes one unary call after the other, and has one stream open all the time. At
the end of stdin they stop; what came of the calls is written to stdout as JSON.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import AsyncIterator

import attrs
import trio
from echo.v1.echo_grpc import EchoServiceStub
from echo.v1.echo_pb2 import EchoRequest

from meshtrio import mesh

_PAUSE = 0.1


@attrs.define
class Results:
    unary: int = 0
    streamed: int = 0
    streams: int = 0
    """Streams that were served to their end."""
    errors: list[str] = attrs.field(factory=list)
    pids: set[int] = attrs.field(factory=set)


async def call(service: str, results: Results, stopped: trio.Event) -> None:
    async with mesh.connect(service) as channel, trio.open_nursery() as nursery:
        stub = EchoServiceStub(channel)
        nursery.start_soon(call_unary, stub, results, stopped)
        nursery.start_soon(call_stream, stub, results, stopped)


async def call_unary(stub: EchoServiceStub, results: Results, stopped: trio.Event) -> None:
    while not stopped.is_set():
        try:
            reply = await stub.Echo(EchoRequest(message="unary"))
        except Exception as exc:
            results.errors.append(f"unary: {exc!r}")
        else:
            results.unary += 1
            results.pids.add(reply.pid)
        await trio.sleep(_PAUSE)


async def call_stream(stub: EchoServiceStub, results: Results, stopped: trio.Event) -> None:
    async def requests() -> AsyncIterator[EchoRequest]:
        while not stopped.is_set():
            yield EchoRequest(message="stream")
            await trio.sleep(_PAUSE)

    try:
        async for reply in stub.Chat(requests()):
            results.streamed += 1
            results.pids.add(reply.pid)
    except Exception as exc:
        results.errors.append(f"stream: {exc!r}")
    else:
        results.streams += 1


async def main(count: int) -> None:
    results, stopped = Results(), trio.Event()
    async with trio.open_nursery() as nursery:
        for _ in range(count):
            nursery.start_soon(call, "plugin.echo", results, stopped)
        async with trio.lowlevel.FdStream(os.dup(0)) as lines:
            while await lines.receive_some(1):
                pass
        stopped.set()
    print(json.dumps({**attrs.asdict(results), "pids": sorted(results.pids)}))


if __name__ == "__main__":
    trio.run(main, int(sys.argv[1]))
