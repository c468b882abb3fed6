"""A client that calls two services again and again: `python -m tests.support.polling_client A B`.

For each line on stdin it writes its counts as a line of JSON, and goes on; it ends with its stdin.
"""

from __future__ import annotations

import json
import os
import sys
from collections import Counter

import purerpc
import trio
from echo.v1.echo_grpc import EchoServiceStub
from echo.v1.echo_pb2 import EchoRequest

from meshtrio import mesh

_PAUSE = 0.05


async def call_steadily(service: str, counts: Counter[str]) -> None:
    async with mesh.connect(service) as channel:
        stub = channel.stub(EchoServiceStub)
        while True:
            try:
                await stub.Echo(EchoRequest(message="steady"))
                counts[f"{service} ok"] += 1
            except purerpc.RpcFailedError:
                counts[f"{service} failed"] += 1
            await trio.sleep(_PAUSE)


async def main() -> None:
    counts: Counter[str] = Counter()
    async with trio.open_nursery() as nursery:
        for service in sys.argv[1:]:
            nursery.start_soon(call_steadily, service, counts)
        async with trio.lowlevel.FdStream(os.dup(0)) as lines:
            while await lines.receive_some(100):
                print(json.dumps(counts), flush=True)
        nursery.cancel_scope.cancel()


if __name__ == "__main__":
    trio.run(main)
