"""What the peers of the RPC benchmark share: payloads, the clock, the cases of awaited calls.

Each peer is a class with `serve(address)` and a set of client cases. A case runs for about
`seconds` and gives how many operations it did in how many seconds.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Any

import attrs
from echo.v1 import echo_pb2 as pb

SMALL = pb.EchoRequest(message="x" * 90)
LARGE = pb.EchoRequest(message="x" * (1024 * 1024 - 16))
STREAM_REPLIES = 64
HUGE = pb.RepeatRequest(message=LARGE.message, count=STREAM_REPLIES)
BARRIER = "BENCHMARK_BARRIER"
SERVICE = "/echo.v1.EchoService/"


@attrs.frozen
class Measurement:
    """Operations, the seconds they took, and the CPU seconds of this process for them."""

    count: int
    seconds: float
    cpu: float


def wait_at_barrier() -> None:
    """Where many clients are measured at once: none starts before all have connected."""
    if BARRIER in os.environ:
        print("ready", flush=True)
        sys.stdin.readline()


class LoopTimer:
    """Runs a loop for its time, after a warm-up that is not counted."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._end = 0.0
        self.count = 0

    def start(self) -> None:
        wait_at_barrier()
        self._cpu, self._began = time.process_time(), time.perf_counter()
        self._end = self._began + self._seconds
        self.count = 0

    @property
    def is_running(self) -> bool:
        return time.perf_counter() < self._end

    def stop(self) -> Measurement:
        return Measurement(
            self.count, time.perf_counter() - self._began, time.process_time() - self._cpu
        )


Unary = Callable[[Any], Awaitable[Any]]


class AsyncPeer:
    """Cases for peers whose calls are awaited, on trio or asyncio alike."""

    async def gather(self, tasks: list[Callable[[], Awaitable[None]]]) -> None:
        raise NotImplementedError

    async def in_flight(self, call: Unary, request: Any, width: int, seconds: float) -> Measurement:
        """`width` loops of calls at once."""
        clock = LoopTimer(seconds)

        async def warm_up() -> None:
            for _ in range(20):
                await call(request)

        async def loop() -> None:
            while clock.is_running:
                await call(request)
                clock.count += 1

        await self.gather([warm_up] * min(width, 20))
        clock.start()
        await self.gather([loop] * width)
        return clock.stop()

    async def ping_pong(
        self,
        send: Callable[[], Awaitable[None]],
        receive: Callable[[], Awaitable[Any]],
        clock: LoopTimer,
    ) -> Measurement:
        """Messages of one stream, with 100 on their way at a time."""
        for _ in range(100):
            await send()
        clock.start()
        while clock.is_running:
            for _ in range(50):
                await receive()
                clock.count += 1
            for _ in range(50):
                await send()
        return clock.stop()

    async def connect_and_call(self, address: str) -> None:
        raise NotImplementedError

    async def connect(self, address: str, seconds: float) -> Measurement:
        """Open a channel, make its first call and close it, again and again."""
        clock = LoopTimer(seconds)
        await self.connect_and_call(address)  # What it imports is not counted.
        clock.start()
        while clock.is_running:
            await self.connect_and_call(address)
            clock.count += 1
        return clock.stop()


class AsyncioPeer(AsyncPeer):
    def run(self, case: Callable[..., Awaitable[Measurement]], *arguments: Any) -> Measurement:
        async def main() -> Measurement:
            return await case(*arguments)

        return asyncio.run(main())

    async def gather(self, tasks: list[Callable[[], Awaitable[None]]]) -> None:
        await asyncio.gather(*(task() for task in tasks))


def tcp_port(address: str) -> int:
    """A port below the ephemeral ones, for a peer that has no Unix sockets."""
    return 20_000 + sum(map(ord, address)) % 10_000
