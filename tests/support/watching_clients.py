"""Many watchers of a service: `python -m tests.support.watching_clients SERVICE COUNT SLOW`.

Of COUNT watches, SLOW are not read before the end. Writes "watching" once each has a first state;
at the line it is then given on stdin, it lets the slow ones catch up, and writes as JSON how many
messages each had and what state each is at, once all are at the same: the one with an endpoint
whose weight is 7.
"""

from __future__ import annotations

import json
import os
import sys

import attrs
import trio

from meshtrio.client.mesh_connection import connect_to_mesh
from meshtrio.client.multicallable import DynamicStub
from meshtrio.messages import registry as messages

_LAST_WEIGHT = 7


@attrs.define
class Watcher:
    messages: int = 0
    weights: tuple[int, ...] = ()
    begun: trio.Event = attrs.field(factory=trio.Event)
    done: trio.Event = attrs.field(factory=trio.Event)

    async def run(self, stub: DynamicStub, service: str, go_on: trio.Event) -> None:
        async with stub.Watch(messages.ResolveRequest(service=service)) as call:
            async for state in call:
                self.messages += 1
                self.weights = tuple(endpoint.weight for endpoint in state.endpoints)
                self.begun.set()
                await go_on.wait()
                if self.weights == (_LAST_WEIGHT,):
                    break
        self.done.set()


async def main(service: str, count: int, slow: int) -> None:
    at_once, later = trio.Event(), trio.Event()
    at_once.set()
    watchers = [Watcher() for _ in range(count)]
    async with connect_to_mesh() as channel, trio.open_nursery() as nursery:
        stub = DynamicStub(channel, messages.DESCRIPTOR.services_by_name["Registry"])
        for number, watcher in enumerate(watchers):
            nursery.start_soon(watcher.run, stub, service, later if number < slow else at_once)
        for watcher in watchers:
            await watcher.begun.wait()
        print("watching", flush=True)
        async with trio.lowlevel.FdStream(os.dup(0)) as lines:
            await lines.receive_some(1)
        later.set()
        for watcher in watchers:
            await watcher.done.wait()
        nursery.cancel_scope.cancel()
    print(json.dumps([[watcher.messages, watcher.weights] for watcher in watchers]), flush=True)


if __name__ == "__main__":
    trio.run(main, sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
