"""The mesh client's own cost: `python -m tests.benchmarks.client [--rounds N] [--json]`.

1. A unary call through a channel with 1, 10 and 1,000 endpoints, 50 in flight, against bare
   channels with as many connections, of which each call takes the next: only picking and
   bookkeeping differ. All endpoints are one server. And picking alone.
2. Calls spread over ten instances of unequal speed, each serving one call at a time, against the
   best that those could do together.
3. A registry change reaching 1,000 channels of one process.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from functools import partial
from pathlib import Path
from typing import Any

import trio
import trio.testing
from echo.v1.echo_grpc import EchoServiceServicer, EchoServiceStub
from echo.v1.echo_pb2 import EchoReply, EchoRequest

from meshtrio.client.channel import Channel, connect_to, open_channel
from meshtrio.discovery.endpoint import Endpoint, ServiceState
from meshtrio.discovery.registry import Registry, watch_service
from meshtrio.grpc.service_config import (
    LoadBalancingConfig,
    LoadBalancingPolicy,
    ServiceConfig,
)
from meshtrio.http2.limits import Limits
from meshtrio.rpc.server import Server
from meshtrio.transport.listener import unix_listener
from tests.benchmarks.processes import start_server

IN_FLIGHT = 50
CALLS = 5000
CHANNELS = 1000
COUNTS = (1, 10, 1000)
SPEEDS = [0.002, 0.002, 0.003, 0.004, 0.005, 0.006, 0.008, 0.010, 0.015, 0.020]
"""Seconds that each instance takes for a call."""
REQUEST = EchoRequest(message="x" * 90)


async def call_many(channels: list[Channel], calls: int, in_flight: int) -> float:
    """Seconds for so many calls, by the channels in turn."""
    echoes = [channel.stub(EchoServiceStub).Echo for channel in channels]
    numbers = iter(range(calls))

    async def call() -> None:
        for number in numbers:
            await echoes[number % len(echoes)](REQUEST)

    began = time.perf_counter()
    async with trio.open_nursery() as nursery:
        for _ in range(in_flight):
            nursery.start_soon(call)
    return time.perf_counter() - began


def fixed(*endpoints: Endpoint) -> Callable[..., Any]:
    async def feed(update: Callable[[ServiceState], None]) -> None:
        update(ServiceState(endpoints))
        await trio.sleep_forever()

    return feed


async def ready(channel: Channel, count: int) -> None:
    while len(channel.picker.ready) < count:  # noqa: ASYNC110 - nobody tells
        await trio.sleep(0.01)


async def hold_channels(
    holding: trio.Nursery, opening: AbstractAsyncContextManager[Channel]
) -> Channel:
    """A channel that is open as long as the nursery is.

    In a task of its own: trio's scopes may not be nested a thousand deep in one.
    """

    async def hold(task_status: trio.TaskStatus[Channel]) -> None:
        async with opening as channel:
            task_status.started(channel)
            await trio.sleep_forever()

    found: Channel = await holding.start(hold)
    return found


async def open_bare_channels(holding: trio.Nursery, address: str, count: int) -> list[Channel]:
    """Channels of one connection each; if they were alike, they would share one."""
    manners = [Limits(max_send_message_size=1_000_000 + number) for number in range(count)]
    found = [await hold_channels(holding, connect_to(f"unix:{address}", limits=m)) for m in manners]
    for channel in found:
        await ready(channel, 1)
    return found


async def measure_picking(address: str, rounds: int) -> dict[str, float]:
    """Microseconds a call, and of a pick, by the number of endpoints."""
    found: dict[str, list[float]] = {}
    async with trio.open_nursery() as holding:
        compared: dict[str, list[Channel]] = {}
        for count in COUNTS:
            endpoints = [Endpoint(f"{count}-{n}", f"unix:{address}") for n in range(count)]
            channel = await hold_channels(holding, open_channel("x", fixed(*endpoints)))
            await ready(channel, count)
            compared[f"{count} bare"] = await open_bare_channels(holding, address, count)
            compared[f"{count} endpoints"] = [channel]
            began = time.perf_counter()
            for _ in range(20_000):
                channel.picker.try_pick()
            found[f"{count} picking"] = [(time.perf_counter() - began) / 20_000 * 1e6]
        for _ in range(rounds):
            for name, channels in compared.items():
                seconds = await call_many(channels, CALLS, IN_FLIGHT)
                found.setdefault(name, []).append(seconds / CALLS * 1e6)
        holding.cancel_scope.cancel()
    return {name: statistics.median(values) for name, values in found.items()}


class OneAtATime(EchoServiceServicer):
    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._turn = trio.Lock()

    async def Echo(self, request: EchoRequest) -> EchoReply:
        async with self._turn:
            await trio.sleep(self._seconds)
        return EchoReply()


async def measure_spreading(folder: Path) -> dict[str, float]:
    """Calls a second, as a share of what the instances can do together."""
    found = {}
    async with AsyncExitStack() as stack, trio.open_nursery() as nursery:
        endpoints = []
        for number, seconds in enumerate(SPEEDS):
            listener = stack.enter_context(unix_listener(folder / f"s{number}"))
            await nursery.start(Server(OneAtATime(seconds)).serve, listener)
            endpoints.append(Endpoint(str(number), f"unix:{folder}/s{number}"))
        best = sum(1 / seconds for seconds in SPEEDS)
        for policy in (LoadBalancingPolicy.LEAST_REQUEST, LoadBalancingPolicy.ROUND_ROBIN):
            config = ServiceConfig(load_balancing=LoadBalancingConfig(policy))
            async with open_channel("x", fixed(*endpoints), service_config=config) as channel:
                await ready(channel, len(SPEEDS))
                seconds = await call_many([channel], 2000, IN_FLIGHT)
            found[policy.value] = 2000 / seconds / best
        nursery.cancel_scope.cancel()
    return found


async def measure_registry_change(address: str) -> dict[str, float]:
    """From a change until every channel knows, and until a call of each was answered."""
    registry = Registry()
    registry.add_service("x")
    feed = partial(watch_service, registry, "x")

    async with trio.open_nursery() as holding:
        opened = (open_channel("x", feed, resolver_key="x") for _ in range(CHANNELS))
        channels = [await hold_channels(holding, opening) for opening in opened]
        await trio.testing.wait_all_tasks_blocked()
        began = time.perf_counter()
        registry.register("x", Endpoint("a", f"unix:{address}"))
        while not all(channel.endpoints for channel in channels):
            await trio.lowlevel.checkpoint()
        known = time.perf_counter() - began
        async with trio.open_nursery() as nursery:
            for channel in channels:
                nursery.start_soon(channel.stub(EchoServiceStub).Echo, REQUEST)
        answered = time.perf_counter() - began
        holding.cancel_scope.cancel()
    return {"known to all, ms": known * 1e3, "a call of each answered, ms": answered * 1e3}


def check_targets(found: dict[str, dict[str, float]]) -> list[str]:
    times = found["a call, µs"]
    return [
        f"among {count} endpoints a call takes "
        f"{times[f'{count} endpoints'] / times[f'{count} bare']:.2f} × one of bare channels with "
        f"as many connections (at most 1.10); picking alone is "
        f"{times[f'{count} picking'] / times['1 bare'] * 100:.1f} % of a call"
        for count in COUNTS
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with (
        tempfile.TemporaryDirectory(prefix="mt-") as name,
        start_server("meshtrio", Path(name)) as server,
    ):
        found = {
            "a call, µs": trio.run(measure_picking, server.address, options.rounds),
            "unequal instances, share of the best": trio.run(measure_spreading, Path(name)),
            f"a change for {CHANNELS} channels": trio.run(measure_registry_change, server.address),
        }
    if options.json:
        print(json.dumps(found, indent=2))
        return
    for case, values in found.items():
        print(f"\n### {case}\n\n| | |\n| --- | ---: |")
        print("\n".join(f"| {key} | {value:,.2f} |" for key, value in values.items()))
    print("", *check_targets(found), sep="\n")


if __name__ == "__main__":
    main()
